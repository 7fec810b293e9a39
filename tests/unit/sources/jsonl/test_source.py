"""The JSONL source copes with unfinished, odd, replaced and shrunken files."""

import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corlld.errors import ConfigurationError, ExitCode, FatalError, UnavailableError
from corlld.records import Record
from corlld.sources.jsonl import open_file
from corlld.sources.jsonl.source import JsonlSource
from corlld.system import lines
from tests.support.fakes import MemoryPositions

LINES = [b'{"n": 1}\n', b'{"n": 2}\n', b'{"n": 3}\n']


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "alice@example.com.jsonl"
    path.write_bytes(b"".join(LINES))
    return path


@pytest.fixture
def positions() -> MemoryPositions:
    return MemoryPositions()


@pytest.fixture
def opened(path: Path, positions: MemoryPositions) -> Iterator[Callable[..., JsonlSource]]:
    sources: list[JsonlSource] = []

    def open_source(*, follow: bool = False) -> JsonlSource:
        source = JsonlSource(path, follow=follow, positions=positions)
        sources.append(source)
        try:
            source.start(0.1)
        except FatalError:
            source.close({}, 1)  # as the assembly does
            raise
        return source

    yield open_source
    for source in sources:
        source.close({}, 1)


def read(source: JsonlSource, polls: int = 2) -> list[Record]:
    return [record for _ in range(polls) for record in source.poll(0.001).records]


def read_and_commit(source: JsonlSource, count: int) -> None:
    """Leaves the file read and committed behind its `count`th line, and closed."""
    records = read(source)
    assert source.commit({records[0].tenure: records[count - 1].next_offset})
    source.close({}, 1)


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_offsets_are_byte_positions(opened: Callable[..., JsonlSource]) -> None:
    starts = [0, len(LINES[0]), len(LINES[0]) + len(LINES[1])]
    records = read(opened())
    assert [record.offset for record in records] == starts
    assert [record.next_offset for record in records] == [*starts[1:], sum(map(len, LINES))]
    assert [record.value for record in records] == [line[:-1] for line in LINES]


def test_the_end_of_the_file_is_known_with_its_last_records(opened: Callable[..., JsonlSource]) -> None:
    source = opened()
    source.poll(0.001)
    assert len(source.poll(0.001).records) == len(LINES)
    assert source.exhausted


def test_the_files_name_is_nowhere(opened: Callable[..., JsonlSource], positions: MemoryPositions) -> None:
    records = read(opened())
    assert records[0].tenure.partition.topic == "jsonl"
    assert "alice" not in f"{records[0].tenure} {positions.saved}"


def test_the_end_of_the_file_ends_its_last_line(opened: Callable[..., JsonlSource], path: Path) -> None:
    append(path, b'{"n": 4}')
    source = opened()
    assert source.poll(0.001).records == (), "its tenure has just begun: it may be paused first"
    records = source.poll(0.001).records
    assert [record.value for record in records] == [*(line[:-1] for line in LINES), b'{"n": 4}']
    assert source.exhausted
    assert records[-1].next_offset == path.stat().st_size
    assert source.positions() == source.ends() == {records[0].tenure: path.stat().st_size}


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_last_line_that_got_its_end_later_is_not_read_again(
    opened: Callable[..., JsonlSource], path: Path, end: bytes, follow: bool
) -> None:
    append(path, b'{"n": 4}')
    read_and_commit(opened(), 4)
    unchanged = opened()
    assert read(unchanged) == []
    unchanged.close({}, 1)
    append(path, end + b'{"n": 5}' + end)
    assert [record.value for record in read(opened(follow=follow))] == [b'{"n": 5}']


@pytest.mark.parametrize("grows_before_the_start", [True, False])
def test_a_last_line_that_went_on_after_it_was_read_is_refused(
    opened: Callable[..., JsonlSource], path: Path, grows_before_the_start: bool
) -> None:
    append(path, b'{"n": 4')
    read_and_commit(opened(), 4)
    rest = b', "m": 1}\n'
    if grows_before_the_start:
        append(path, rest)
        with pytest.raises(FatalError, match="continued in the middle of a line"):
            opened(follow=True)
        return
    source = opened(follow=True)
    assert read(source) == []
    append(path, rest)
    with pytest.raises(FatalError, match="continued in the middle of a line"):
        source.poll(0.001)


def test_a_byte_order_mark_is_skipped_and_counts_as_bytes_of_its_line(
    opened: Callable[..., JsonlSource], path: Path
) -> None:
    path.write_bytes(b"\xef\xbb\xbf{}\r\n\xef\xbb\xbf\n{}\n")
    records = read(opened())
    assert [(record.offset, record.value, record.next_offset) for record in records] == [(0, b"{}", 7), (11, b"{}", 14)]


@pytest.mark.parametrize(
    "content",
    [gzip.compress(LINES[0]), LINES[0].decode().encode("utf-16"), b"[" + LINES[0]],
    ids=["gzip", "UTF-16", "array"],
)
def test_a_file_that_is_compressed_utf_16_or_an_array_is_refused_at_the_start_or_once_it_is_written(
    opened: Callable[..., JsonlSource], path: Path, content: bytes
) -> None:
    path.write_bytes(content)
    with pytest.raises(FatalError, match="it is ") as refused:
        opened()
    assert refused.value.exit_code is ExitCode.DATA
    path.write_bytes(b"")
    source = opened(follow=True)
    assert read(source) == []
    append(path, content)
    with pytest.raises(FatalError, match="it is "):
        source.poll(0.001)


def test_a_line_without_its_end_waits_while_the_file_is_followed(
    opened: Callable[..., JsonlSource], path: Path
) -> None:
    append(path, b'{"n":')
    source = opened(follow=True)
    assert len(read(source)) == len(LINES)
    append(path, b" 4}")
    assert read(source) == []
    append(path, b'\n{"n": 5}\n')
    assert [record.value for record in read(source)] == [b'{"n": 4}', b'{"n": 5}']
    assert not source.exhausted


def test_empty_lines_are_passed_over_and_carriage_returns_cut(opened: Callable[..., JsonlSource], path: Path) -> None:
    path.write_bytes(b"\n \r\n{}\r\n\n")
    source = opened()
    (record,) = read(source)
    assert (record.offset, record.value, record.next_offset) == (4, b"{}", 8)
    assert list(source.positions().values()) == [9]


def test_a_line_over_the_limit_becomes_its_beginning(
    opened: Callable[..., JsonlSource], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 10)
    monkeypatch.setattr(lines, "SKIP_BYTES", 7)
    path.write_bytes(b"x" * 50 + b"\n{}\n")
    long, short = read(opened())
    assert (long.value, long.next_offset) == (b"x" * 11, 51)
    assert (short.offset, short.value) == (51, b"{}")


def test_a_line_over_the_limit_waits_for_its_end_too(
    opened: Callable[..., JsonlSource], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 10)
    path.write_bytes(b"x" * 50)
    source = opened(follow=True)
    assert read(source) == []
    append(path, b"x\n")
    (record,) = read(source)
    assert (record.value, record.next_offset) == (b"x" * 11, 52)


def test_one_poll_brings_a_bounded_number_of_lines_and_bytes(
    opened: Callable[..., JsonlSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_file, "MAX_READ_LINES", 2)
    source = opened()
    source.poll(0.001)
    assert [len(source.poll(0.001).records) for _ in range(2)] == [2, 1]
    source.close({}, 1)
    monkeypatch.setattr(open_file, "MAX_READ_BYTES", len(LINES[0]))
    source = opened()
    source.poll(0.001)
    assert len(source.poll(0.001).records) == 1


def test_the_files_id_is_durable_before_its_first_record_and_stays(
    opened: Callable[..., JsonlSource], positions: MemoryPositions
) -> None:
    positions.fails = True
    source = opened()
    polled = source.poll(0.001)
    assert (polled.begun, polled.records) == ((), ())
    positions.fails = False
    first = read(source)
    source.close({}, 1)
    again = read(opened())
    assert first[0].tenure.partition == again[0].tenure.partition


def test_a_commit_that_can_not_be_saved_shows_as_not_committed(
    opened: Callable[..., JsonlSource], positions: MemoryPositions
) -> None:
    source = opened()
    records = read(source)
    positions.fails = True
    assert not source.commit({records[0].tenure: records[0].next_offset})
    assert source.committed() == {records[0].tenure: 0}


def test_a_second_reader_is_refused(opened: Callable[..., JsonlSource]) -> None:
    opened()
    with pytest.raises(UnavailableError, match="another reader"):
        opened()


def test_a_file_that_grew_goes_on_where_it_was(opened: Callable[..., JsonlSource], path: Path) -> None:
    read_and_commit(opened(), 2)
    append(path, b'{"n": 4}\n')
    assert [record.value for record in read(opened())] == [b'{"n": 3}', b'{"n": 4}']


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda path: path.write_bytes(LINES[0]), "shrank"),
        (lambda path: path.write_bytes(b"".join(reversed(LINES))), "was replaced"),
        (lambda path: path.write_bytes(b"x" * 1000), "was replaced"),
    ],
)
def test_a_file_replaced_or_truncated_at_the_start_is_refused_with_what_to_do(
    opened: Callable[..., JsonlSource], path: Path, change: Callable[[Path], object], what: str
) -> None:
    read_and_commit(opened(), 2)
    change(path)
    with pytest.raises(FatalError, match=f"{what} .*set source.path") as refused:
        opened()
    assert refused.value.exit_code is ExitCode.DATA


def test_a_file_whose_beginning_alone_is_the_same_is_refused(
    opened: Callable[..., JsonlSource], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_file, "HEAD_BYTES", 4)
    read_and_commit(opened(), 2)
    path.write_bytes(b'{"n": 1, "longer": 1}\n' * 3)
    with pytest.raises(FatalError, match="was replaced"):
        opened()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda path: os.truncate(path, 1), "shrank"),
        (lambda path: path.unlink(), "was removed"),
        (lambda path: (path.unlink(), path.touch()), "was replaced"),
        (lambda path: path.with_name("new").write_bytes(b"") or path.with_name("new").rename(path), "was replaced"),
    ],
)
def test_a_followed_file_that_is_replaced_truncated_or_deleted_is_refused(
    opened: Callable[..., JsonlSource], path: Path, change: Callable[[Path], object], what: str
) -> None:
    source = opened(follow=True)
    read(source)
    change(path)
    with pytest.raises(FatalError, match=what) as refused:
        source.poll(0.001)
    assert refused.value.exit_code is ExitCode.DATA


def test_a_followed_file_that_is_written_over_in_place_is_refused_and_stays_refused(
    opened: Callable[..., JsonlSource], path: Path
) -> None:
    source = opened(follow=True)
    assert len(read(source)) == 3
    with path.open("r+b") as file:  # the same file to the system, and longer than it was
        file.write(b'{"m": 7, "text": "of another file"}\n' * 4)
    os.utime(path, ns=(1, 1))
    with pytest.raises(FatalError, match="was written over"):
        source.poll(0.001)
    source.close(source.positions(), 1)
    with pytest.raises(FatalError, match="was replaced"):
        opened(follow=True)


def test_a_missing_file_is_waited_for_where_it_is_followed(tmp_path: Path, positions: MemoryPositions) -> None:
    with pytest.raises(UnavailableError, match=r"did not appear within 0\.05 s"):
        JsonlSource(tmp_path / "missing", follow=True, positions=positions).start(0.05)
    with pytest.raises(ConfigurationError, match="does not exist"):
        JsonlSource(tmp_path / "missing", follow=False, positions=positions).start(0.05)


def test_a_folder_is_no_input(tmp_path: Path, positions: MemoryPositions) -> None:
    with pytest.raises(ConfigurationError, match=r"source\.path"):
        JsonlSource(tmp_path, follow=False, positions=positions).start(0.05)
