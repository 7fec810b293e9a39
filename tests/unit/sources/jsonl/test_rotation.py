"""A followed file that is rotated by rename and create is read to its end, and then the file that took its name."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corlld.errors import ConfigurationError, ExitCode, FatalError
from corlld.records import Record
from corlld.sources.jsonl import rotation
from corlld.sources.jsonl.open_file import OpenFile
from corlld.sources.jsonl.source import JsonlSource
from tests.support.fakes import MemoryPositions

OLD = [b'{"old": 1}\n', b'{"old": 2}\n']
NEW = [b'{"new": 1}\n', b'{"new": 2}\n']

Open = Callable[..., JsonlSource]


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "WAIT_SECONDS", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "edits.jsonl"
    path.write_bytes(b"".join(OLD))
    return path


@pytest.fixture
def positions() -> MemoryPositions:
    return MemoryPositions()


@pytest.fixture
def opened(path: Path, positions: MemoryPositions) -> Iterator[Open]:
    sources: list[JsonlSource] = []

    def open_source() -> JsonlSource:
        source = JsonlSource(path, follow=True, positions=positions)
        sources.append(source)
        try:
            source.start(0.1)
        except FatalError:
            source.close({}, 1)
            raise
        return source

    yield open_source
    for source in sources:
        source.close({}, 1)


def rotate(path: Path, number: int = 1, content: bytes = b"".join(NEW)) -> Path:
    old = path.rename(path.with_name(f"{path.name}.{number}"))
    path.write_bytes(content)
    return old


def read(source: JsonlSource, polls: int = 4) -> list[Record]:
    return [record for _ in range(polls) for record in source.poll(0.001).records]


def commit(source: JsonlSource) -> None:
    assert source.commit(source.positions())


def values(records: list[Record]) -> list[bytes]:
    return [(record.value or b"") + b"\n" for record in records]


def test_the_old_file_is_read_to_its_end_and_then_the_new_one_in_the_same_tenure(opened: Open, path: Path) -> None:
    source = opened()
    records = read(source)
    old = rotate(path)
    with old.open("ab") as file:
        file.write(b'{"old": 3}\n{"old": 4}')  # its writer had it open, and ends without a line break
    records += read(source)
    commit(source)
    records += read(source)
    assert values(records) == [*OLD, b'{"old": 3}\n', b'{"old": 4}\n', *NEW]
    assert len({record.tenure for record in records}) == 1
    offsets = [record.offset for record in records]
    assert offsets == sorted(set(offsets))
    assert all(record.next_offset > record.offset for record in records)
    assert source.ends() == source.positions()


def test_the_new_file_waits_until_all_of_the_old_one_is_committed(opened: Open, path: Path) -> None:
    source = opened()
    records = read(source)
    rotate(path)
    source.commit({records[0].tenure: records[0].next_offset})
    assert read(source) == []
    (end,) = source.ends().values()
    assert end == sum(map(len, OLD + NEW)), "what waits counts as lag"
    commit(source)
    assert values(read(source)) == NEW


def test_the_old_file_is_left_some_time_after_it_was_renamed(
    opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "WAIT_SECONDS", 1e9)
    source = opened()
    read(source)
    rotate(path)
    commit(source)
    assert read(source) == []
    monkeypatch.setattr(rotation, "WAIT_SECONDS", 0.0)
    assert values(read(source)) == NEW


def test_the_old_file_is_not_left_while_nothing_is_written_to_the_new_one(opened: Open, path: Path) -> None:
    source = opened()
    records = read(source)
    old = rotate(path, content=b"")
    commit(source)
    records += read(source)
    with old.open("ab") as file:
        file.write(b'{"old": 3}\n')  # its writer has not noticed the rotation yet
    records += read(source)
    commit(source)
    path.write_bytes(b"".join(NEW))
    records += read(source)
    assert values(records) == [*OLD, b'{"old": 3}\n', *NEW]


def test_a_link_that_points_to_another_file_is_no_rotation(path: Path, positions: MemoryPositions) -> None:
    link, other = path.with_name("link"), path.with_name("other")
    link.symlink_to(path)
    other.write_bytes(b"".join(NEW))
    source = JsonlSource(link, follow=True, positions=positions)
    source.start(0.1)
    read(source)
    link.unlink()
    link.symlink_to(other)
    with pytest.raises(FatalError, match="was replaced"):
        read(source)
    source.close({}, 1)


def test_a_renamed_file_is_followed_until_its_name_is_taken_again(opened: Open, path: Path) -> None:
    source = opened()
    read(source)
    old = path.rename(path.with_name("old"))
    with old.open("ab") as file:
        file.write(b'{"old": 3}\n')
    assert values(read(source)) == [b'{"old": 3}\n']
    commit(source)
    path.write_bytes(b"".join(NEW))
    assert values(read(source)) == NEW


def test_files_of_several_rotations_are_read_in_their_order(opened: Open, path: Path) -> None:
    source = opened()
    records = read(source)
    for number in (1, 2, 3):
        rotate(path, number, b'{"new": %d}\n' % number)
        records += read(source, 1)
    path.with_name(f"{path.name}.1").unlink()  # old files may go once the new ones were seen
    for _ in range(3):
        commit(source)
        records += read(source)
    assert values(records) == [*OLD, *(b'{"new": %d}\n' % number for number in (1, 2, 3))]


@pytest.mark.parametrize("committed", [0, 1, 2])
@pytest.mark.parametrize("rotated_while_down", [True, False])
def test_a_restart_finds_the_renamed_file_and_goes_on_at_the_commit(
    opened: Open, path: Path, committed: int, rotated_while_down: bool
) -> None:
    source = opened()
    records = read(source)
    ends = [0, *(record.next_offset for record in records)]
    source.commit({records[0].tenure: ends[committed]})
    if not rotated_while_down:
        rotate(path)
        if committed < 2:
            read(source)
    source.close({}, 1)
    if rotated_while_down:
        rotate(path)
    again = opened()
    first = read(again)
    commit(again)
    records = first + read(again)
    assert values(records) == [*OLD[committed:], *NEW]
    assert records[0].offset == ends[committed]
    assert source.has_commits() is False
    assert records[0].tenure.partition == first[0].tenure.partition


STEPS = "rrNrcOrcrrNrc"  # r: read, c: commit all that was read, N: rotate, O: the old file gets another line


@pytest.mark.parametrize("killed_after", range(len(STEPS) + 1))
def test_wherever_it_is_killed_each_line_takes_effect_once_and_in_order(
    opened: Open, path: Path, killed_after: int
) -> None:
    written, effects, applied, newest = list(OLD), [], 0, path
    source = opened()
    for step, action in enumerate(STEPS + "rc" * 6):
        if step == killed_after:
            source.close({}, 1)
            source = opened()
        if action == "N":
            newest = rotate(path, step, b'{"new": %d}\n' % step)
            written.append(b'{"new": %d}\n' % step)
        elif action == "O":
            with newest.open("ab") as file:
                file.write(b'{"late": 1}\n')
            written.insert(len(OLD), b'{"late": 1}\n')
            os.utime(newest, ns=(1, 1))  # the new file is written long after the old one
        elif action == "r":
            for record in source.poll(0.001).records:
                if record.offset >= applied:  # as the user's state judges it
                    effects.append((record.value or b"") + b"\n")
                    applied = record.next_offset
        elif source.positions():
            commit(source)
    assert effects == written


def test_a_restart_after_the_switch_needs_the_old_file_no_more(opened: Open, path: Path) -> None:
    source = opened()
    records = read(source)
    old = rotate(path)
    commit(source)
    records = read(source)
    source.commit({records[0].tenure: records[0].next_offset})
    source.close({}, 1)
    old.unlink()
    (again,) = read(opened())
    assert (again.value, again.offset, again.tenure.partition) == (
        records[1].value,
        records[1].offset,
        records[1].tenure.partition,
    )


def test_a_switch_that_can_not_be_saved_is_tried_again(opened: Open, path: Path, positions: MemoryPositions) -> None:
    source = opened()
    read(source)
    rotate(path)
    commit(source)
    before = dict(positions.saved)
    positions.fails = True
    assert read(source) == []
    assert positions.saved == before
    positions.fails = False
    assert values(read(source)) == NEW


def test_a_renamed_file_that_is_gone_at_a_restart_is_refused(opened: Open, path: Path) -> None:
    source = opened()
    read(source)
    source.close({}, 1)
    rotate(path).unlink()
    with pytest.raises(FatalError, match="was replaced") as refused:
        opened()
    assert refused.value.exit_code is ExitCode.DATA


def test_two_rotations_while_nobody_read_are_refused_with_the_file_that_would_be_left_out(
    opened: Open, path: Path
) -> None:
    source = opened()
    read(source)
    source.close({}, 1)
    old = rotate(path, 1)
    os.utime(old, ns=(1, 1))
    missed = rotate(path, 2)
    with pytest.raises(FatalError, match=rf"rotated more than once .*{missed.name}"):
        opened()
    missed.rename(path.with_name("elsewhere"))
    assert values(read(opened())) == OLD


@pytest.mark.parametrize("committed", [1, 2], ids=["with a line unread", "wholly read"])
def test_a_file_that_an_editor_wrote_anew_while_nobody_read_goes_on_under_its_name(
    opened: Open, path: Path, committed: int
) -> None:
    source = opened()
    records = read(source)
    last = records[committed - 1]
    source.commit({last.tenure: last.next_offset})
    source.close({}, 1)
    path.rename(path.with_name("edits.jsonl~"))
    path.write_bytes(b"".join(OLD + NEW))
    source = opened()
    again = read(source)
    assert values(again) == (OLD + NEW)[committed:]
    assert again[0].offset == last.next_offset
    commit(source)
    assert read(source) == []


def test_a_file_that_an_editor_changed_while_nobody_read_is_a_new_one(opened: Open, path: Path) -> None:
    source = opened()
    read(source)
    commit(source)
    source.close({}, 1)
    path.rename(path.with_name("edits.jsonl~"))
    path.write_bytes(b"".join([*OLD[:1], *NEW]))
    assert values(read(opened())) == [*OLD[:1], *NEW]


def test_a_position_of_an_earlier_version_goes_on_in_its_file(
    opened: Open, path: Path, positions: MemoryPositions
) -> None:
    source = opened()
    records = read(source)
    source.commit({records[0].tenure: records[0].next_offset})
    source.close({}, 1)
    ((name, saved),) = positions.saved.items()
    fields = json.loads(saved)
    positions.save_position(
        name, {key: fields[key] for key in ("topic_id", "head_bytes", "head_sha256", "next_offset")}
    )
    assert values(read(opened())) == OLD[1:]


def test_a_copy_under_the_old_name_is_no_rotation(opened: Open, path: Path) -> None:
    source = opened()
    read(source)
    commit(source)
    rotate(path, content=b"".join(OLD + NEW))  # as some editors save
    with pytest.raises(FatalError, match="replaced by a copy"):
        read(source)


def test_a_new_file_of_another_format_is_refused(opened: Open, path: Path) -> None:
    source = opened()
    read(source)
    commit(source)
    rotate(path, content=b"[{}]\n")
    with pytest.raises(FatalError, match="JSON array"):
        read(source)


def test_another_file_of_a_like_name_beside_it_is_no_rotation(opened: Open, path: Path) -> None:
    source = opened()
    read(source)
    commit(source)
    source.close({}, 1)
    old = rotate(path)
    os.utime(old, ns=(1, 1))
    path.with_name("edits-dead-letters.jsonl").write_bytes(b"newer\n")
    assert values(read(opened())) == NEW


def test_a_new_file_that_may_not_be_read_yet_is_waited_for(
    opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened()
    read(source)
    commit(source)
    rotate(path)

    def forbidden(path: Path) -> OpenFile:
        raise ConfigurationError(f"source.path = {path} can't be read: Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(rotation, "OpenFile", forbidden)
        patched.setattr(rotation, "WAIT_SECONDS", 60.0)
        assert read(source) == []
        patched.setattr(rotation, "WAIT_SECONDS", 0.0)
        with pytest.raises(ConfigurationError, match="Permission denied"):
            read(source)
    assert values(read(source)) == NEW


def test_a_file_that_was_read_before_goes_on_whatever_its_first_line_looks_like(
    opened: Open, path: Path, positions: MemoryPositions
) -> None:
    source = opened()
    read(source)
    commit(source)
    source.close({}, 1)
    content = b"[" + path.read_bytes()[1:]
    path.write_bytes(content)
    for name, saved in positions.saved.items():
        positions.saved[name] = json.dumps(
            {**json.loads(saved), "head_bytes": len(content), "head_sha256": hashlib.sha256(content).hexdigest()}
        )
    with path.open("ab") as more:
        more.write(NEW[0])
    assert values(read(opened())) == NEW[:1]


def test_a_new_file_that_begins_as_the_renamed_one_does_not_hide_it(opened: Open, path: Path) -> None:
    path.write_bytes(OLD[0])
    source = opened()
    read(source)
    commit(source)
    source.close({}, 1)
    with path.open("ab") as file:
        file.write(OLD[1])
    os.utime(rotate(path, content=OLD[0] + NEW[0]), ns=(1, 1))
    source = opened()
    assert values(read(source)) == [OLD[1]]
    commit(source)
    assert values(read(source)) == [OLD[0], NEW[0]]


def test_a_file_that_was_copied_back_goes_on_if_the_old_one_is_gone(opened: Open, path: Path) -> None:
    source = opened()
    read(source)
    commit(source)
    source.close({}, 1)
    rotate(path, content=b"".join(OLD + NEW)).unlink()
    assert values(read(opened())) == NEW


def test_a_file_that_is_removed_while_the_folder_is_searched_is_passed_over(
    opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened()
    read(source)
    commit(source)
    source.close({}, 1)
    rotate(path)
    gone = path.with_name("edits.jsonl.9")
    gone.write_bytes(b"")

    class Vanishing:
        def __init__(self, entry: "os.DirEntry[str]") -> None:
            self.path, self.inode, self.is_file, self._entry = entry.path, entry.inode, entry.is_file, entry

        def stat(self) -> os.stat_result:
            if self.path == str(gone):
                raise FileNotFoundError(self.path)
            return self._entry.stat()

    entries = os.scandir
    monkeypatch.setattr(rotation.os, "scandir", lambda folder: map(Vanishing, entries(folder)))
    assert values(read(opened())) == NEW


def test_a_folder_that_can_not_be_searched_is_one_sentence(
    opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened()
    read(source)
    source.close({}, 1)
    rotate(path)

    def forbidden(folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(rotation.os, "scandir", forbidden)
    with pytest.raises(ConfigurationError, match=r"source\.path .* can't be searched .*: Permission denied"):
        opened()
