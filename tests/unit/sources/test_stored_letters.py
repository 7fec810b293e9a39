"""Dead letters that are read back are those that were written, and nothing is taken for a letter that is none."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from corlld.errors import ExitCode, FatalError, InvalidEvent, InvalidReason
from corlld.records import DeadLetter, StoredLetter
from corlld.settings.sections import DeadLetterSettings
from corlld.sources.dead_letters import (
    PAYLOAD_DROPPED_HEADER,
    REASON_HEADER,
    RECORD_KEY_HEADER,
    letter_headers,
    letter_key,
    read_letter,
)
from corlld.sources.letter_file import JsonlDeadLetters, letters_of_file
from tests.support.letters import VALUE, a_letter


def read(letter: DeadLetter, value: bytes | None, *more: tuple[str, bytes]) -> StoredLetter | None:
    own = [(name, text.encode()) for name, text in letter_headers(letter).items()]
    return read_letter(letter_key(letter).encode(), value, [*letter.record.headers, *own, *more], 7.0)


def found(letter: StoredLetter | None) -> StoredLetter:
    assert letter is not None
    return letter


def from_file(path: Path) -> list[tuple[int, StoredLetter | None]]:
    with letters_of_file(path) as stream:
        return list(stream.letters)


def test_a_letter_of_a_topic_has_the_records_own_bytes_and_headers() -> None:
    written = a_letter()
    letter = found(read(written, VALUE, (RECORD_KEY_HEADER, b"user")))
    assert (letter.key, letter.uid, letter.offset) == (letter_key(written), "u1", 41)
    assert letter.partition == written.record.tenure.partition
    assert letter.reason == "invalid_field"
    assert dict(letter.headers) == letter_headers(written)
    assert (letter.record_key, letter.record_value, letter.record_headers) == (b"user", VALUE, (("trace", b"t"),))
    assert (letter.has_payload, letter.stored_at) == (True, 7.0)


def test_a_header_of_the_record_that_looks_like_a_letters_counts_for_nothing() -> None:
    forged = (REASON_HEADER, b"crashed"), ("__connect.errors.topic", b"other"), ("trace", b"t")
    letter = found(read(a_letter(headers=forged), VALUE, (RECORD_KEY_HEADER, b"user")))
    assert (letter.reason, letter.partition.topic, letter.record_headers) == ("invalid_field", "edits", forged[2:])


@pytest.mark.parametrize("more", [(), ((PAYLOAD_DROPPED_HEADER, b"dropped: too large"),)])
def test_a_letter_without_a_payload_gives_none(more: tuple[tuple[str, bytes], ...]) -> None:
    letter = found(read(a_letter(), b"", *more))
    assert not letter.has_payload
    assert (letter.record_key, letter.record_value, letter.record_headers) == (None, None, ())


@pytest.mark.parametrize(("reason", "value"), [(InvalidReason.NOT_JSON, b""), (InvalidReason.STATE_UNREADABLE, None)])
def test_an_empty_value_was_a_tombstone_unless_it_was_refused_as_no_json(
    reason: InvalidReason, value: bytes | None
) -> None:
    letter = DeadLetter(a_letter().record, InvalidEvent(reason), "u1")
    back = found(read(letter, b"", (RECORD_KEY_HEADER, b"user")))
    assert (back.has_payload, back.record_value) == (True, value)


def test_a_user_who_was_not_known_is_none() -> None:
    letter = DeadLetter(a_letter().record, a_letter().error, None)
    assert found(read(letter, VALUE)).uid is None


def test_what_is_no_letter_of_corlld_is_none() -> None:
    own = [(name, text.encode()) for name, text in letter_headers(a_letter()).items()]
    key = letter_key(a_letter()).encode()
    assert read_letter(key, VALUE, own[:-1], None) is None  # of a connector: no reason
    assert read_letter(key, VALUE, own[1:], None) is None  # no topic
    for other in (None, b"user", b"\xff/t/0/1", b"u/t/x/1", b"u/t/1"):
        assert read_letter(other, VALUE, own, None) is None


def test_a_file_gives_back_what_was_written_and_the_bytes_of_each_line(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    letters = JsonlDeadLetters(path, DeadLetterSettings())
    for _ in range(2):
        letters.send(a_letter(key=None, headers=())).result(10)
    letters.close(1)
    back = from_file(path)
    assert sum(steps for steps, _ in back) == path.stat().st_size
    for _, letter in back:
        assert (found(letter).key, found(letter).record_value) == (letter_key(a_letter()), VALUE)
        assert found(letter).stored_at is None


def test_a_file_without_payloads_gives_letters_without(tmp_path: Path) -> None:
    letters = JsonlDeadLetters(tmp_path / "dead.jsonl", DeadLetterSettings(payload=False))
    letters.send(a_letter()).result(10)
    letters.close(1)
    ((_, letter),) = from_file(tmp_path / "dead.jsonl")
    assert not found(letter).has_payload


def a_line(**more: Any) -> bytes:
    fields = {"key": letter_key(a_letter()), "headers": letter_headers(a_letter()), "payload": ""} | more
    return json.dumps(fields).encode() + b"\n"


def test_a_line_that_the_daemon_still_writes_is_not_read_and_a_foreign_line_is_no_letter(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    foreign = [b"{}\n", b"[1]\n", b"no json\n", a_line(payload="?"), a_line(headers=[]), a_line(key=5)]
    path.write_bytes(a_line() + b"".join(foreign) + a_line(payload=base64.b64encode(VALUE).decode())[:-1])
    assert [letter is not None for _, letter in from_file(path)] == [True] + [False] * len(foreign)


def test_a_file_that_is_not_there_has_no_letters_and_one_that_can_not_be_read_is_said(tmp_path: Path) -> None:
    assert from_file(tmp_path / "none.jsonl") == []
    (tmp_path / "folder").mkdir()
    with pytest.raises(FatalError, match="can't be read") as refused:
        from_file(tmp_path / "folder")
    assert refused.value.exit_code is ExitCode.CANNOT_WRITE
