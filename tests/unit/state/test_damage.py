"""An error of the disk is the damage of one file only if another file can be read."""

import errno
import os
from pathlib import Path

import pytest

from corlld.errors import StateUnreadable
from corlld.state.damage import DAMAGED, damage_raises, read_twice
from tests.support.bad_disk import refuse


def read(file: Path, elsewhere: Path) -> bytes:
    with damage_raises(elsewhere, StateUnreadable):
        return file.read_bytes()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    file, elsewhere = tmp_path / "file", tmp_path / "elsewhere"
    for each in (file, elsewhere):
        each.write_bytes(b"content")
    return file, elsewhere


def test_what_can_be_read_is_read(files: tuple[Path, Path]) -> None:
    assert read(*files) == b"content"


@pytest.mark.parametrize("problem", DAMAGED)
def test_an_error_of_one_file_alone_is_told_by_the_systems_words(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    refuse(monkeypatch, files[:1], problem=problem)
    with pytest.raises(StateUnreadable) as told:
        read(*files)
    assert str(files[0]) not in str(told.value)


@pytest.mark.parametrize("problem", DAMAGED)
def test_a_disk_that_refuses_another_file_too_is_away(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    refuse(monkeypatch, files, problem=problem)
    with pytest.raises(OSError, match="elsewhere"):
        read(*files)


def test_the_other_file_is_read_from_the_disk_and_not_from_memory(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is away still answers from memory. The system may keep a page all the same, so it is not asked."""
    refuse(monkeypatch, files[:1])
    calls: list[object] = []
    read_bytes = Path.read_bytes

    def advised(descriptor: int, offset: int, length: int, advice: int) -> None:
        calls.append((Path(f"/proc/self/fd/{descriptor}").resolve(), offset, length, advice))

    def reading(path: Path) -> bytes:
        calls.append(path)
        return read_bytes(path)

    monkeypatch.setattr(os, "posix_fadvise", advised)
    monkeypatch.setattr(Path, "read_bytes", reading)
    with pytest.raises(StateUnreadable):
        read(*files)
    assert calls == [files[0], (files[1].resolve(), 0, 0, os.POSIX_FADV_DONTNEED), files[1]]


@pytest.mark.parametrize(
    ("problems", "is_read"), [([errno.EIO], True), ([errno.EIO] * 2, False), ([errno.EACCES], False)]
)
def test_a_file_is_read_once_more_after_an_error_of_the_disk(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, problems: list[int], is_read: bool
) -> None:
    read_bytes, failures = Path.read_bytes, iter(problems)

    def failing(path: Path) -> bytes:
        if (problem := next(failures, None)) is not None:
            raise OSError(problem, os.strerror(problem))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    if is_read:
        assert read_twice(files[0]) == b"content"
    else:
        with pytest.raises(OSError, match=os.strerror(problems[0])):
            read_twice(files[0])


def test_any_other_error_stays_as_it_is(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, files[:1], problem=errno.EACCES)
    with pytest.raises(PermissionError):
        read(*files)
