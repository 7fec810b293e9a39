"""A file of events is opened so that it can be read twice, and judged as a whole."""

import gzip
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from corlld.commands import events_file
from corlld.commands.events_file import Contents, opened, validate
from corlld.errors import ExitCode, FatalError
from corlld.events.decoder import EventDecoder
from corlld.settings.sections import EventSettings
from tests.support.edits import edit, erasure, lines

DECODER = EventDecoder(EventSettings(max_text_chars=100), supports_messages=True, key_required=False)
SECRET = "never-to-be-quoted"


def judged(tmp_path: Path, content: bytes) -> Contents:
    path = tmp_path / "edits.jsonl"
    path.write_bytes(content)
    with opened(str(path)) as file:
        return validate(file, "edits.jsonl", DECODER)


def refusal(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(FatalError) as refused:
        judged(tmp_path, content)
    assert refused.value.exit_code is ExitCode.DATA
    assert SECRET not in str(refused.value)
    return str(refused.value)


def test_a_valid_file_is_counted(tmp_path: Path) -> None:
    chat = edit(2, messages=[{"role": "user", "content": "Hello"}])
    del chat["prompt"]
    cloud = {"specversion": "1.0", "id": "1", "source": "/editor", "type": "com.example.edit"}
    cloud |= {"time": "2026-01-02T12:00:00Z", "data": edit(3)}
    content = (
        lines(edit(1)) + b"\r\n" + lines(chat).replace(b"\n", b"\r\n") + lines(erasure("bob"), cloud).rstrip(b"\n")
    )
    found = judged(tmp_path, content)
    assert found == Contents(lines=5, events=4, erasures=1, with_messages=1, users=2, most_of_one_user=3)
    assert str(found) == "4 events of 2 users, 1 to erase a user, 1 with messages (for a model with a chat template)"


def test_a_byte_order_mark_and_the_end_of_the_file_are_no_part_of_a_line(tmp_path: Path) -> None:
    assert judged(tmp_path, b"\xef\xbb\xbf" + lines(edit(1)) + b"\xef\xbb\xbf" + lines(edit(2)).rstrip()).events == 2


@pytest.mark.parametrize(
    "encoded",
    [gzip.compress, lambda text: text.decode().encode("utf-16"), lambda text: b"[" + text],
    ids=["gzip", "UTF-16", "array"],
)
def test_a_file_of_another_format_is_refused_in_a_sentence(tmp_path: Path, encoded: Callable[[bytes], bytes]) -> None:
    assert len(refusal(tmp_path, encoded(lines(edit(1), edit(2)))).splitlines()) == 1


def test_each_wrong_line_is_told_by_number_reason_and_field(tmp_path: Path) -> None:
    content = (
        lines(
            edit(1),
            edit(2, edited=None) | {SECRET: SECRET},
            edit(3, proposed=SECRET * 20),
            {"event_id": SECRET, "user_id": SECRET},
        )
        + b'{"prompt": "%s"\n[]\n' % SECRET.encode()
    )
    assert refusal(tmp_path, content).splitlines() == [
        "edits.jsonl: 5 of 6 lines are not valid events",
        "line 2: invalid_field: edited: a text",
        "line 3: too_large: proposed: at most 100 characters",
        "line 4: missing_field: occurred_at: an RFC 3339 time with an offset",
        "line 5: not_json: one JSON object in UTF-8, without repeated keys",
        "line 6: not_an_object: one JSON object",
    ]


def test_of_very_many_wrong_lines_the_first_thousand_are_told_and_all_counted(tmp_path: Path) -> None:
    told = refusal(tmp_path, lines(edit(1)) + b"{}\n" * 1002).splitlines()
    assert told[0] == "edits.jsonl: 1,002 of 1,003 lines are not valid events"
    assert [line.partition(":")[0] for line in told[1:-1]] == [f"line {number}" for number in range(2, 1002)]
    assert told[-1] == "... and 2 more"


@pytest.mark.parametrize(
    "binary",
    [
        b"\x1f\x8b\x08\x00" + bytes(range(256)),
        "é".encode("latin-1"),
        json.dumps(edit(1)).encode("utf-16"),
        json.dumps(edit(1)).encode("utf-16-be"),  # valid UTF-8, with zeros
    ],
)
def test_a_line_that_is_not_text_is_told_and_hides_no_other(tmp_path: Path, binary: bytes) -> None:
    binary = binary.replace(b"\n", b"")
    told = refusal(tmp_path, lines(edit(1)) + binary + b"\n{}\n" + binary + b"\n").splitlines()
    assert told == [
        "edits.jsonl: 3 of 4 lines are not valid events",
        "line 2: not_json: not text in UTF-8",
        "line 3: missing_field: event_id: a text of 1 to 512 characters",
        "line 4: not_json: not text in UTF-8",
    ]


@pytest.mark.parametrize("content", [b"", b"\n \n\r\n"])
def test_a_file_without_an_event_is_refused(tmp_path: Path, content: bytes) -> None:
    assert refusal(tmp_path, content) == "edits.jsonl: it has no event"


@pytest.mark.parametrize(
    ("name", "told"),
    [("none.jsonl", "No such file or directory"), ("", "Is a directory"), ("/dev/null", "neither a file nor a pipe")],
)
def test_what_is_no_readable_file_is_a_wrong_command_line(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(FatalError, match=told) as refused, opened(str(tmp_path / name)):
        pass
    assert refused.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize("in_memory", [10, 10_000_000])
def test_a_pipe_can_be_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int) -> None:
    monkeypatch.setattr(events_file, "SPOOLED_IN_MEMORY_BYTES", in_memory)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    pipe, content = tmp_path / "pipe", lines(*(edit(number) for number in range(100)))
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    with opened(str(pipe)) as file:
        start = file.tell()
        assert validate(file, "pipe", DECODER).events == 100
        file.seek(start)
        assert file.read() == content
        assert not list((tmp_path / "copies").iterdir()), "the copy has no name that another could open"
    writer.join()


def test_a_copy_that_can_not_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_file, "SPOOLED_IN_MEMORY_BYTES", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"12",))
    writer.start()
    with pytest.raises(FatalError, match=r"copy in .*missing can't be written") as refused, opened(str(pipe)):
        pass
    writer.join()
    assert refused.value.exit_code is ExitCode.CANNOT_WRITE
