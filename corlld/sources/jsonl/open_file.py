"""One open file of events: locked, recognised by its beginning, and read line by line.

It knows nothing of tenures, commits and other files. Positions are bytes of this file.
"""

import fcntl
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from corlld.errors import ConfigurationError, ExitCode, FatalError, UnavailableError
from corlld.system.formats import other_format
from corlld.system.lines import read_line

HEAD_BYTES = 64 * 1024  # of the file's beginning: the same bytes mean the same file
MAX_READ_LINES = 500
MAX_READ_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a file: how many bytes, and their SHA-256."""

    length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class FileLine:
    """A line that is not blank. text: without its end. start, end: positions of its first byte and behind its last."""

    text: bytes
    start: int
    end: int


class OpenFile:
    """A regular file, open and locked for one reader. `position` is where `read` goes on."""

    def __init__(self, path: Path) -> None:
        """Open and lock the file.

        Raises FileNotFoundError, ConfigurationError if it can't be read, UnavailableError if it has another reader.
        """
        self._path = path
        try:
            self._file: BinaryIO = path.open("rb")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ConfigurationError(f"source.path = {path} can't be read: {error.strerror}") from None
        try:
            self._refuse_if_unusable()
        except FatalError:
            self._file.close()
            raise
        self.head = Head(0, hashlib.sha256().hexdigest())
        self.position = 0
        self.at_end = False  # the last `read` came to the file's end
        self._seen = (-1, -1)  # size and modification time when the head was last measured
        self._waits_at_size = -1  # the file's size when its last line had no end
        self._last_line_is_open = False  # reading stopped behind a last line without end

    def _refuse_if_unusable(self) -> None:
        if not stat.S_ISREG(self.status.st_mode):
            raise ConfigurationError(f"source.path = {self._path} is not a regular file")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnavailableError(f"{self._path} has another reader: stop the other daemon") from None

    @property
    def status(self) -> os.stat_result:
        return os.fstat(self._file.fileno())

    @property
    def size(self) -> int:
        return self.status.st_size

    @property
    def is_deleted(self) -> bool:
        """True once the file has no name any more."""
        return self.status.st_nlink == 0

    def close(self) -> None:
        """Close the file, and with it the lock."""
        self._file.close()

    def begins_with(self, head: Head) -> bool:
        """Return whether the file still, or also, has this beginning."""
        return hashlib.sha256(self._bytes_at(0, head.length)).hexdigest() == head.sha256

    def begins_with_all_of(self, other: "OpenFile") -> bool:
        """Return whether the file begins with the whole content of the other one."""
        size = other.size
        return self.size >= size and all(
            self._bytes_at(start, length) == other._bytes_at(start, length)
            for start in range(0, size, HEAD_BYTES)
            for length in [min(HEAD_BYTES, size - start)]
        )

    def measure_head(self) -> None:
        """Read the file's beginning, by which it is recognised. Raises FatalError if it is in another format."""
        status = self.status
        head = self._bytes_at(0, min(status.st_size, HEAD_BYTES))
        # A file that was read before, also by a version that did not look at formats, goes on.
        if self.position == 0 and (problem := other_format(head)) is not None:
            raise FatalError(f"{self._path}: {problem}", ExitCode.DATA)
        self.head = Head(len(head), hashlib.sha256(head).hexdigest())
        self._seen = (status.st_size, status.st_mtime_ns)

    def go_on_at(self, position: int, head: Head) -> None:
        """Go on in the file that was read before. Raises FatalError if this is not that file."""
        self.position = position
        if self.size < max(position, head.length):
            raise self.refused("shrank")
        if not self.begins_with(head):
            raise self.refused("was replaced")
        self._last_line_is_open = position > 0 and self._bytes_at(position - 1, 1) != b"\n"
        self._check_open_line()
        self.measure_head()

    def check_unchanged(self) -> None:
        """Refuse a file that was cut or written over in place. If it grew, measure its head again."""
        status = self.status
        if status.st_size < self.position:
            raise self.refused("shrank")
        if (status.st_size, status.st_mtime_ns) != self._seen:
            if not self.begins_with(self.head):
                raise self.refused("was written over")
            self.measure_head()

    def read(self, *, to_the_end: bool) -> list[FileLine]:
        """Read the next lines, at most `MAX_READ_LINES` and about `MAX_READ_BYTES`.

        Args:
            to_the_end: the end of the file ends its last line. Otherwise a line without its end waits for it.
        """
        self.at_end = False
        self._check_open_line()
        if self.size == self._waits_at_size and not to_the_end:
            return []
        lines: list[FileLine] = []
        start = self.position
        self._file.seek(start)
        while len(lines) < MAX_READ_LINES and self.position - start < MAX_READ_BYTES:
            line = read_line(self._file)
            if not line.ended and (not to_the_end or not line.length):
                self._waits_at_size = self.position + line.length
                self.at_end = to_the_end or not line.length
                break
            begin, self.position = self.position, self.position + line.length
            self._last_line_is_open = not line.ended
            if line.text.strip():
                lines.append(FileLine(line.text, begin, self.position))
        return lines

    def refused(self, what: str) -> FatalError:
        """Return the error for a file to which something happened that may have lost lines."""
        return FatalError(
            f"{self._path} {what} after {self.position} bytes of it had been read: lines may have been lost. Put the "
            "old file back, or give the new one another name and set source.path to it",
            ExitCode.DATA,
        )

    def _check_open_line(self) -> None:
        """Refuse a file whose last line was read without its end, and then went on: half of it was taken for a line."""
        if self._last_line_is_open and (rest := self._bytes_at(self.position, 1)):
            if rest not in b"\r\n":
                raise self.refused("was continued in the middle of a line (or was replaced)")
            self._last_line_is_open = False

    def _bytes_at(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)
