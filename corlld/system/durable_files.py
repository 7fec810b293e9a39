"""Makes files durable: a whole temporary file first, then one link or rename, then fsync of the folder."""

import contextlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from corlld.errors import ExitCode, FatalError, RetriableError

LEFT_OVER_AFTER_SECONDS = 3600.0  # no write takes as long: an older temporary file belongs to a process that is gone

# The names that this module gives to files for a while, and no others.
_TEMPORARY = re.compile(r"\.(?:probe-[0-9a-f]{16}|[0-9a-f]{16}\.tmp)")
_ANY_NAME = re.compile(r".*")


class Access(NamedTuple):
    """Modes of new folders and files. The umask can take rights away, and adds none."""

    folder: int
    file: int


PERSONAL = Access(0o700, 0o600)  # states: the daemon's own user, and nobody else
SHARED = Access(0o750, 0o640)  # adapters: readable by the group of the engines that serve them


@contextlib.contextmanager
def retriable(folder: Path) -> Iterator[None]:
    """Raise RetriableError for an OSError: a disk that is full, gone or failing may work later.

    The message names the folder, never a user. A missing right has the exit code that `check_writable` gives it.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RetriableError(f"{folder}: {reason}", ExitCode.CANNOT_WRITE) from error


def fsync_folder(folder: Path) -> None:
    """Make durable what was linked, renamed or removed in the folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(folder: Path, access: Access) -> None:
    """Make the folder durably if it is missing, and the folders missing above it.

    Those above are `SHARED`, since other folders may lie beside this one.
    """
    if folder.is_dir():
        return
    make_folders(folder.parent, SHARED)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(access.folder)
    fsync_folder(folder.parent)


def write_whole(path: Path, data: bytes, access: Access) -> None:
    """Write a new file, of a name that nobody else uses, and fsync it. A failure leaves nothing of it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, access.file)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def link_new(temporary: Path, path: Path) -> None:
    """Give a whole temporary file its name, and remove the temporary name in every case.

    Raises FileExistsError if the name is taken: the file that has it is not touched.
    """
    try:
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def create(path: Path, data: bytes, access: Access) -> None:
    """Make a new file, whole or not at all. Raises FileExistsError if there is a file: it is not touched."""
    temporary = _temporary(path)
    write_whole(temporary, data, access)
    link_new(temporary, path)


def replace(path: Path, data: bytes, access: Access) -> None:
    """Give the file this content, whole or not at all, whether or not it exists."""
    temporary = _temporary(path)
    write_whole(temporary, data, access)
    try:
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def remove_all(files: Iterable[Path]) -> dict[Path, OSError]:
    """Remove the files that are there. Returns why others can't be removed, in the order of the files."""
    left = {}
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            left[file] = error
    return left


def check_writable(folder: Path, access: Access) -> None:
    """Make the folder if it is missing, and write, fsync, link and remove a file in it.

    So a full disk, or a filesystem without links, shows at the start. No folder is made where no file can be: in
    `/sys`, a folder may be a switch. What kills have left of earlier probes and writes is removed; a folder that can be
    written and can't be listed keeps it.

    Raises FatalError.
    """
    probe = folder / f".probe-{secrets.token_hex(8)}"
    check_permission(folder)
    try:
        make_folders(folder, access)
        try:
            create(probe, bytes(4096), access)
            now = probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise FatalError(f"{folder} can't be written: {error.strerror}", ExitCode.CANNOT_WRITE) from error
    with contextlib.suppress(OSError):
        remove_left_overs(folder, now)


def remove_left_overs(folder: Path, now: float, *, every_name: bool = False) -> None:
    """Remove temporary files in the folder that a process left which was killed.

    Only their age tells: the files of another live process look the same, and it would fail without them. A file that
    can't be looked at or removed stays: nothing needs it to go.

    Args:
        folder: files in folders below it stay.
        now: unix time, by the clock that dates the folder's files.
        every_name: all files in the folder are temporary. If False, those with names that this module gives.

    Raises OSError if the folder can't be listed.
    """
    names = _ANY_NAME if every_name else _TEMPORARY
    for path in folder.iterdir():
        if names.fullmatch(path.name):
            with contextlib.suppress(OSError):
                if now - path.stat().st_mtime > LEFT_OVER_AFTER_SECONDS:
                    path.unlink()


def check_permission(folder: Path) -> None:
    """Check that this process can write in the folder, or make it in the nearest one above that exists.

    Leaves nothing behind. Raises FatalError.
    """
    existing = nearest_folder(folder)
    try:  # rights alone tell nothing: root has every right, also in `/proc` and `/sys`, where no file can be made
        with tempfile.TemporaryFile(dir=existing) as file:  # on most filesystems it never has a name
            os.fsync(file.fileno())
    except OSError as error:
        raise FatalError(f"{existing} can't be written: {error.strerror}", ExitCode.CANNOT_WRITE) from error


def nearest_folder(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists. Raises FatalError if a file is there."""
    existing = next(there for there in (folder.absolute(), *folder.absolute().parents) if is_there(there))
    if not existing.is_dir():
        raise FatalError(f"{folder} can't be a folder: {existing} is a file", ExitCode.CANNOT_WRITE)
    return existing


def is_there(path: Path) -> bool:
    """Return whether there is a file or folder. Raises FatalError if this process may not look, or can't."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise FatalError(f"{path} can't be looked at: {error.strerror}", ExitCode.CANNOT_WRITE) from None
    return True


def check_file_permission(file: Path) -> None:
    """Check that this process can append to the file durably, or make it. Changes nothing. Raises FatalError."""
    if not is_there(file):
        return check_permission(file.parent)
    if not file.is_file():  # a folder, or a device such as /dev/null
        raise FatalError(f"{file} is not a regular file", ExitCode.CANNOT_WRITE)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FatalError(f"{file} can't be written: {error.strerror}", ExitCode.CANNOT_WRITE) from error


def _temporary(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(8)}.tmp")
