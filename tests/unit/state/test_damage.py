"""An error of the disk is the damage of one file only if another file can be read."""

import errno
from pathlib import Path

import pytest

from corlld.errors import StateUnreadable
from corlld.state.damage import DAMAGED, damage_raises
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


def test_any_other_error_stays_as_it_is(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, files[:1], problem=errno.EACCES)
    with pytest.raises(PermissionError):
        read(*files)
