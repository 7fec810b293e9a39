"""The newest records of a file, as a sample takes them: its last lines."""

import gzip
from pathlib import Path

import pytest

from corlld.errors import ConfigurationError, FatalError
from corlld.sources.jsonl import last_lines
from corlld.sources.jsonl.last_lines import newest_records

LINES = [b'{"n": %d}' % number for number in range(20)]


def values(path: Path, limit: int, *, follow: bool = False) -> list[bytes | None]:
    return [record.value for record in newest_records(path, limit, follow=follow)]


@pytest.fixture(params=[4, 9, 10, 1_000_000])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of 20 lines of 8 or 9 bytes, read in blocks that end inside of a line, at one, or nowhere."""
    monkeypatch.setattr(last_lines, "BLOCK_BYTES", request.param)
    (tmp_path / "edits.jsonl").write_bytes(b"\n".join(LINES) + b"\n")
    return tmp_path / "edits.jsonl"


@pytest.mark.parametrize("limit", [1, 2, 19, 20, 21, 500])
def test_the_last_lines_of_a_file_are_read_or_all_where_there_are_fewer(path: Path, limit: int) -> None:
    assert values(path, limit) == LINES[-limit:]


def test_each_line_has_its_place(path: Path) -> None:
    content = path.read_bytes()
    for record in newest_records(path, 7, follow=False):
        assert content[record.offset : record.next_offset] == (record.value or b"") + b"\n"


@pytest.mark.parametrize("limit", [1, 3, 500])
def test_a_line_without_its_end_is_read_as_the_daemon_does(path: Path, limit: int) -> None:
    with path.open("ab") as file:
        file.write(b'{"n": 20}')
    assert values(path, limit, follow=True) == LINES[-limit:]
    assert values(path, limit) == [*LINES, b'{"n": 20}'][-limit:]


def test_a_byte_order_mark_is_no_part_of_a_record(tmp_path: Path) -> None:
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbf{}\r\n")
    assert values(tmp_path / "marked", 3) == [b"{}"]


def test_a_file_of_another_format_has_no_records(tmp_path: Path) -> None:
    (tmp_path / "edits.jsonl.gz").write_bytes(gzip.compress(b"{}\n"))
    with pytest.raises(FatalError, match="gzip"):
        values(tmp_path / "edits.jsonl.gz", 3)


def test_blank_lines_are_no_records(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\r\n \n")
    assert values(path, 3) == LINES[-1:]


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert values(tmp_path / "empty", 3) == []


def test_a_file_is_not_searched_through_for_lines_without_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_lines, "MAX_SCANNED_BYTES", 10)
    monkeypatch.setattr(last_lines, "BLOCK_BYTES", 4)
    found = list(newest_records(path, 20, follow=False))
    assert [record.value for record in found][-1] == LINES[-1]
    assert path.stat().st_size - found[0].offset < 10 + 4


def test_a_file_that_can_not_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        values(tmp_path / "none", 3)


def test_the_file_is_closed_where_the_reader_stops_early(path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    records = newest_records(path, 5, follow=False)
    next(records)
    records.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
