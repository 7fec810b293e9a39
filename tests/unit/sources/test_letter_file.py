"""Dead letters in a file."""

import base64
import json
import stat
from pathlib import Path

import pytest

from corlld.errors import RetriableError
from corlld.settings.sections import DeadLetterSettings
from corlld.sources.dead_letters import letter_headers, letter_key
from corlld.sources.letter_file import JsonlDeadLetters
from tests.support.letters import VALUE, a_letter


def test_a_file_gets_one_object_a_line_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "dead.jsonl"
    letters = JsonlDeadLetters(path, DeadLetterSettings())
    for _ in range(2):
        letters.send(a_letter()).result(10)
    letters.close(1)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    expected = {
        "key": letter_key(a_letter()),
        "headers": letter_headers(a_letter()),
        "payload": base64.b64encode(VALUE).decode(),
    }
    assert lines == [expected, expected]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_keeps_no_payload_where_it_is_off(tmp_path: Path) -> None:
    letters = JsonlDeadLetters(tmp_path / "dead.jsonl", DeadLetterSettings(payload=False))
    letters.send(a_letter()).result(10)
    letters.close(1)
    assert set(json.loads((tmp_path / "dead.jsonl").read_text())) == {"key", "headers"}


def test_a_file_that_can_not_be_written_is_retriable(tmp_path: Path) -> None:
    (tmp_path / "dead.jsonl").mkdir()
    letters = JsonlDeadLetters(tmp_path / "dead.jsonl", DeadLetterSettings())
    with pytest.raises(RetriableError, match="can't be written"):
        letters.send(a_letter()).result(10)
    letters.close(1)


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dead.jsonl"
    letters = JsonlDeadLetters(path, DeadLetterSettings())
    letters.send(a_letter()).result(10)
    whole = path.read_bytes()

    def full_disk(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("corlld.sources.letter_file.os.fsync", full_disk)
        with pytest.raises(RetriableError, match="No space left"):
            letters.send(a_letter()).result(10)
    assert path.read_bytes() == whole
    letters.send(a_letter()).result(10)
    assert path.read_bytes() == 2 * whole
    letters.close(1)
