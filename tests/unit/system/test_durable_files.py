"""The checks of a folder. A write is tried out, and leaves nothing behind."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from corlld.errors import ExitCode, FatalError
from corlld.system.durable_files import (
    LEFT_OVER_AFTER_SECONDS,
    PERSONAL,
    check_file_permission,
    check_permission,
    check_writable,
    remove_all,
)
from tests.support.bad_disk import refuse

PROBE, TEMPORARY = f".probe-{16 * '0'}", f".{16 * '0'}.tmp"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders and files that are tried; all are refused. Root, who may run this test, has every right."""
    tried: list[Path] = []
    really_open = os.open

    def refuse(path: Path) -> NoReturn:
        tried.append(path)
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def open_all_but_files_to_write(path: Path, flags: int, *more: Any, **keywords: Any) -> int:
        return refuse(path) if flags & os.O_WRONLY else really_open(path, flags, *more, **keywords)

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **where: refuse(where["dir"]))
    monkeypatch.setattr(os, "open", open_all_but_files_to_write)
    return tried


def test_a_missing_folder_needs_the_right_to_the_nearest_one_above_it(tmp_path: Path, asked: list[Path]) -> None:
    with pytest.raises(FatalError, match=f"{tmp_path} can't be written: Permission denied") as caught:
        check_permission(tmp_path / "not" / "there")
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE
    assert asked == [tmp_path]


def test_a_file_needs_the_right_to_itself(tmp_path: Path, asked: list[Path]) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(FatalError, match=f"{file} can't be written: Permission denied"):
        check_file_permission(file)
    assert asked == [file]


@pytest.mark.parametrize("below", ["", "folder", "folder/folder"])
def test_no_folder_can_be_below_a_file(tmp_path: Path, below: str) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(FatalError, match=f"can't be a folder: {file} is a file") as caught:
        check_permission(file / below)
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE
    with pytest.raises(FatalError, match=f"can't be a folder: {file} is a file"):
        check_file_permission(file / below / "letters.jsonl")


@pytest.mark.parametrize("check", [check_permission, check_file_permission])
def test_what_may_not_be_looked_at_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Callable[[Path], None]
) -> None:
    """The user of a command may not enter a folder of the daemon's."""
    there = tmp_path / "folder" / "adapters"
    refuse(monkeypatch, [there], ["stat"], errno.EACCES)
    with pytest.raises(FatalError, match=f"{there} can't be looked at: Permission denied") as caught:
        check(there)
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE


def test_what_may_be_written_is_not_made(tmp_path: Path) -> None:
    check_permission(tmp_path / "not" / "there")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["/proc", "/sys"])
@pytest.mark.parametrize(
    "check",
    [check_permission, check_file_permission, lambda folder: check_writable(folder, PERSONAL)],
    ids=["permission", "file", "writable"],
)
def test_no_place_is_accepted_where_no_file_can_be_made_not_even_of_root(
    place: str, check: Callable[[Path], None]
) -> None:
    with pytest.raises(FatalError, match=f"{place} can't be written") as caught:
        check(Path(place) / "corlld")
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE


def test_no_folder_is_made_where_no_file_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a filesystem of control groups, root may make a folder, which is a group, and no file."""

    def refused(**where: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(where))

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    with pytest.raises(FatalError, match=f"{tmp_path} can't be written: Permission denied"):
        check_writable(tmp_path / "not" / "there", PERSONAL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "said"),
    [("/dev/null", "is not a regular file"), ("/proc", "is not a regular file"), ("/proc/version", "can't be written")],
)
def test_a_file_must_be_one_that_can_be_made_durable(file: str, said: str) -> None:
    with pytest.raises(FatalError, match=f"{file} {said}") as caught:
        check_file_permission(Path(file))
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE


def put(file: Path, *, age_seconds: float) -> Path:
    file.write_bytes(b"left by a kill")
    then = time.time() - age_seconds
    os.utime(file, (then, then))
    return file


@pytest.mark.parametrize("name", [PROBE, TEMPORARY])
def test_what_a_kill_left_of_an_earlier_probe_goes_once_it_is_old(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, age_seconds=LEFT_OVER_AFTER_SECONDS + 60)
    check_writable(tmp_path, PERSONAL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [PROBE, TEMPORARY])
def test_the_probe_of_another_process_that_starts_now_stays(tmp_path: Path, name: str) -> None:
    live = put(tmp_path / name, age_seconds=LEFT_OVER_AFTER_SECONDS - 60)
    check_writable(tmp_path, PERSONAL)
    assert list(tmp_path.iterdir()) == [live]


def test_files_of_other_names_stay_however_old(tmp_path: Path) -> None:
    names = ("store.json", ".probe-mine", f".probe-{15 * '0'}", ".vimrc.tmp", f"{16 * '0'}.tmp", f"{PROBE}.txt")
    others = {put(tmp_path / name, age_seconds=10 * LEFT_OVER_AFTER_SECONDS) for name in names}
    check_writable(tmp_path, PERSONAL)
    assert set(tmp_path.iterdir()) == others


def test_a_left_over_that_can_not_be_removed_does_not_stop_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays = put(tmp_path / PROBE, age_seconds=LEFT_OVER_AFTER_SECONDS + 60)
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == stays:
            raise PermissionError
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    check_writable(tmp_path, PERSONAL)
    assert list(tmp_path.iterdir()) == [stays]


def test_a_folder_that_can_be_written_and_not_listed_does_not_stop_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, [tmp_path], ["iterdir"], problem=errno.EACCES)
    check_writable(tmp_path, PERSONAL)


def test_of_files_that_are_removed_each_goes_that_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_bytes(b"")
    refuse(monkeypatch, files[1:2], ["unlink"])
    left = remove_all([*files, tmp_path / "not-there"])
    assert {file: error.errno for file, error in left.items()} == {files[1]: errno.EIO}
    assert list(tmp_path.iterdir()) == files[1:2]


def test_the_age_is_judged_by_the_clock_that_dates_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapters may lie on a file server, and its clock may be hours behind this machine's."""
    live = put(tmp_path / PROBE, age_seconds=0)
    later = time.time() + 10 * LEFT_OVER_AFTER_SECONDS
    monkeypatch.setattr(time, "time", lambda: later)
    check_writable(tmp_path, PERSONAL)
    assert list(tmp_path.iterdir()) == [live]
