"""Rotation by rename and create: a log's writer renames its file and begins a new one under the old name.

The old file is read to its end, then the new one from its beginning. A file without a name (deleted, or replaced by
renaming another one over it) is no rotation, nor is a symbolic link that points to another file.
"""

import os
import re
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from corlld.errors import ConfigurationError, ExitCode, FatalError
from corlld.sources.jsonl.open_file import Head, OpenFile

log = structlog.get_logger("corlld.jsonl")

# A writer goes on in the renamed file until it opens the new one. Several writers do so one after the other.
WAIT_SECONDS = 5.0  # after something was written to the new file


class Successors:
    """The files that took the name after the one that is being read, in their order. All are open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: deque[OpenFile] = deque()
        self._written_since: float | None = None  # monotonic seconds; None while all that wait are empty
        self._refused_since: float | None = None  # monotonic seconds; None unless the new file can't be opened

    def look(self, current: OpenFile) -> None:
        """Look at the name once more. Raises FatalError if a file was deleted or replaced in place of rotated."""
        last = self._waiting[-1] if self._waiting else current
        try:
            if not os.path.samestat(self._path.stat(), last.status):
                if last.is_deleted or self._path.is_symlink():  # a position is named after the file behind a link
                    raise last.refused("was replaced")
                self._open()
        except FileNotFoundError:  # renamed, and the new file is not there yet
            if last.is_deleted:
                raise last.refused("was removed") from None
        if self._written_since is None and self.nbytes:
            self._written_since = time.monotonic()

    def _open(self) -> None:
        """Open the file that has the name now. A rotation may create it first, and allow to read it a moment later."""
        try:
            self.add(OpenFile(self._path))
        except ConfigurationError:
            if self._refused_since is None:
                self._refused_since = time.monotonic()
            if time.monotonic() - self._refused_since >= WAIT_SECONDS:
                raise
        else:
            self._refused_since = None

    def add(self, file: OpenFile) -> None:
        """Add the file that has the name now."""
        self._waiting.append(file)
        log.info("file_rotated", waiting=len(self._waiting))

    @property
    def old_file_is_whole(self) -> bool:
        """True once nobody writes to the old file any more: its end is the end of its last line."""
        return self._written_since is not None and time.monotonic() - self._written_since >= WAIT_SECONDS

    @property
    def nbytes(self) -> int:
        return sum(file.size for file in self._waiting)

    def first(self, old: OpenFile) -> OpenFile:
        """Return the file to go on with. Raises FatalError if it is in another format, or a copy of the old one."""
        file = self._waiting[0]
        file.measure_head()
        if old.head.length and file.size >= old.head.length and file.begins_with(old.head):
            raise old.refused("was replaced by a copy")
        return file

    def take_first(self) -> None:
        """Note that the first file has become the one that is being read."""
        self._waiting.popleft()
        self._written_since = None

    def close(self) -> None:
        while self._waiting:
            self._waiting.popleft().close()


def find_renamed(path: Path, present: OpenFile, head: Head, inode: int, position: int) -> OpenFile | None:
    """Return the file that was read before, if it was renamed since. It must be in the same folder.

    Args:
        path: the name.
        present: the file that has the name now.
        head: the beginning of the file that was read before.
        inode: its inode; 0 if a version of corlld saved the position that did not keep it.
        position: how many bytes of it were read before.

    The inode decides: a new file may begin as the one that was read before. Only without a file of that inode it may
    still be the file under `path`, copied back. And the file under `path` goes on if all of the renamed file stands at
    its beginning: an editor keeps the old file under another name, and writes a new one with more lines.

    Raises FatalError if another file was rotated since: it was never seen under `path`. ConfigurationError if the
    folder can't be searched.
    """
    if not inode or present.status.st_ino == inode:
        return None
    others = _other_files(path, present)
    # An empty beginning recognises nothing, so the name has to.
    for found in [each for each in others if each.inode == inode and (head.length or _is_of(path, each.path.name))]:
        file = OpenFile(found.path)
        if not file.begins_with(head):
            file.close()
            continue
        written = file.status.st_mtime_ns
        for other in others:
            if other.inode != inode and _is_of(path, other.path.name) and other.written_ns > written:
                file.close()
                raise FatalError(
                    f"{path} was rotated more than once while nobody read it, and lines of {other.path.name} would be "
                    "left out. Send them in another way; then move that file to another folder",
                    ExitCode.DATA,
                )
        if position and present.begins_with_all_of(file):
            file.close()
            return None
        return file
    return None


@dataclass(frozen=True, slots=True)
class _Found:
    """A file of the folder. written_ns: when it was written last."""

    path: Path
    inode: int
    written_ns: int


def _other_files(path: Path, present: OpenFile) -> list[_Found]:
    """Return the regular files of the folder but the present one. Raises ConfigurationError if it can't be listed."""
    found = []
    try:
        for each in os.scandir(path.parent):
            with suppress(FileNotFoundError):  # it has just been removed: old files are, as a log is rotated
                if each.inode() != present.status.st_ino and each.is_file():
                    found.append(_Found(Path(each.path), each.inode(), each.stat().st_mtime_ns))
    except OSError as error:
        raise ConfigurationError(
            f"source.path = {path}: another file has this name now, and the folder can't be searched for the one that "
            f"was read before: {error.strerror}"
        ) from None
    return found


def _is_of(path: Path, name: str) -> bool:
    """Return whether a file's name looks like that of a rotated file: `edits.jsonl.1`, `edits-2026-01-02.jsonl`."""
    whole, stem = re.escape(path.name), re.escape(path.stem)
    return re.fullmatch(rf"{whole}[.-].+|{stem}[.-]\d.*", name) is not None
