"""Reads a file with one JSON object per line: to its end, or for ever as it grows.

It sees when the file was replaced, shortened or written over since its position was saved, and refuses to go on.
"""

import fcntl
import hashlib
import os
import stat
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import structlog

from corlld.errors import ConfigurationError, ExitCode, FatalError, RetriableError, UnavailableError
from corlld.protocols import PositionStore
from corlld.records import Polled, Record, SourcePartition, Tenure
from corlld.system.lines import read_line

log = structlog.get_logger("corlld.jsonl")

TOPIC = "jsonl"  # never the file's name: it may be personal
HEAD_BYTES = 64 * 1024  # of the file's beginning: the same bytes mean the same file
MAX_POLL_LINES = 500
MAX_POLL_BYTES = 4 * 1024 * 1024
RETRY_SECONDS = 0.1


class JsonlSource:
    """Implements `corlld.protocols.Source`. Offsets are byte positions. A line without its end is read once it has one.

    Args:
        path: the file.
        follow: wait for the file to grow (at the start: to appear), instead of stopping at its end.
        positions: keeps how far the file was read, and a digest of its beginning that identifies it.
    """

    def __init__(self, path: Path, *, follow: bool, positions: PositionStore) -> None:
        self._path = path
        self._follow = follow
        self._positions = positions
        self._name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
        self._file: BinaryIO | None = None
        self._tenure: Tenure | None = None
        self._had_commits = False
        self._file_id = ""
        self._head = (0, "")  # the file's beginning: how many bytes, and their SHA-256
        self._seen = (-1, -1)  # size and modification time when the head was last measured
        self._position = 0
        self._committed = 0
        self._paused = False
        self._exhausted = False
        self._waits_at_size = -1  # the file's size when its last line had no end

    @property
    def cluster_id(self) -> str:
        return TOPIC

    @property
    def exhausted(self) -> bool:
        return self._exhausted

    @property
    def healthy(self) -> bool:
        return True

    @property
    def unfinished_bytes(self) -> int:
        """Length of a last line without an end, which was not read; 0 if there is none. Known once `exhausted`."""
        return max(0, self._size() - self._position) if self._exhausted and self._file else 0

    def start(self, timeout_seconds: float) -> None:
        """Open and lock the file, and load the position to go on at.

        Raises UnavailableError if the file does not appear in time or has another reader, ConfigurationError if it
        can't be read, FatalError if it is not the file that was read before.
        """
        self._file = self._open(timeout_seconds)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnavailableError(f"{self._path} has another reader: stop the other daemon") from None
        try:
            saved = self._positions.load_position(self._name)
        except RetriableError as error:
            raise UnavailableError(f"the place in {self._path} can't be loaded: {error}") from None
        self._had_commits = saved is not None
        if saved is None:
            self._file_id = uuid.uuid4().hex
        else:
            self._file_id = str(saved["topic_id"])
            self._head = (int(saved["head_bytes"]), str(saved["head_sha256"]))
            self._position = self._committed = int(saved["next_offset"])
            self._check_identity()
        self._head = self._measure_head()

    def has_commits(self) -> bool:
        return self._had_commits

    def poll(self, timeout_seconds: float) -> Polled:
        begun: tuple[Tenure, ...] = ()
        if self._tenure is None:
            # The file's id must be durable before any record is applied under it.
            if not self._save(self._position):
                _wait(timeout_seconds)
                return Polled()
            self._tenure = Tenure(SourcePartition(TOPIC, self._file_id, 0), 1, self._position)
            begun = (self._tenure,)
        if self._follow:
            self._check_unchanged()
        self._check_head()
        records = () if self._paused else self._read(self._tenure)
        if not records and not begun:
            _wait(timeout_seconds)
        return Polled(records, begun=begun)

    def positions(self) -> Mapping[Tenure, int]:
        return {self._tenure: self._position} if self._tenure else {}

    def ends(self) -> Mapping[Tenure, int]:
        """Return the file's size, which includes a last line without its end."""
        return {self._tenure: self._size()} if self._tenure else {}

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def commit(self, next_offsets: Mapping[Tenure, int]) -> bool:
        """Commit at once: when it returns True, the commit is durable."""
        if self._tenure is None or self._tenure not in next_offsets:
            return False
        return self._save(next_offsets[self._tenure])

    def committed(self) -> Mapping[Tenure, int]:
        return {self._tenure: self._committed} if self._tenure else {}

    def close(self, next_offsets: Mapping[Tenure, int], timeout_seconds: float) -> None:
        if self._file is None:
            return
        self.commit(next_offsets)
        self._file.close()  # and with it the lock
        self._file = None
        self._tenure = None

    # --- the file -----------------------------------------------------------------------------------------------------

    def _open(self, timeout_seconds: float) -> BinaryIO:
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                file = self._path.open("rb")
            except FileNotFoundError:
                if not self._follow:
                    raise ConfigurationError(f"source.path = {self._path} does not exist") from None
                if time.monotonic() >= deadline:
                    raise UnavailableError(f"{self._path} did not appear within {timeout_seconds:g} s") from None
                _wait(RETRY_SECONDS)
            except OSError as error:
                raise ConfigurationError(f"source.path = {self._path} can't be read: {error.strerror}") from None
            else:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    file.close()
                    raise ConfigurationError(f"source.path = {self._path} is not a regular file")
                return file

    def _size(self) -> int:
        assert self._file is not None  # noqa: S101 - started
        return os.fstat(self._file.fileno()).st_size

    def _bytes_at(self, offset: int, length: int) -> bytes:
        assert self._file is not None  # noqa: S101 - started
        self._file.seek(offset)
        return self._file.read(length)

    def _measure_head(self) -> tuple[int, str]:
        head = self._bytes_at(0, min(self._size(), HEAD_BYTES))
        return len(head), hashlib.sha256(head).hexdigest()

    def _check_identity(self) -> None:
        if self._size() < max(self._position, self._head[0]):
            raise self._refused("shrank")
        length, digest = self._head
        ends_a_line = self._position == 0 or self._bytes_at(self._position - 1, 1) == b"\n"
        if hashlib.sha256(self._bytes_at(0, length)).hexdigest() != digest or not ends_a_line:
            raise self._refused("was replaced")

    def _check_head(self) -> None:
        """Refuse a file that was written over in place: its beginning differs. If the file grew, measure it again."""
        assert self._file is not None  # noqa: S101 - started
        status = os.fstat(self._file.fileno())
        if (status.st_size, status.st_mtime_ns) == self._seen:
            return
        length, digest = self._head
        if hashlib.sha256(self._bytes_at(0, length)).hexdigest() != digest:
            raise self._refused("was written over")
        self._head = self._measure_head()
        self._seen = (status.st_size, status.st_mtime_ns)

    def _check_unchanged(self) -> None:
        assert self._file is not None  # noqa: S101 - started
        if self._size() < self._position:
            raise self._refused("shrank")
        try:
            now = self._path.stat()
        except FileNotFoundError:
            raise self._refused("was removed") from None
        if not os.path.samestat(now, os.fstat(self._file.fileno())):
            raise self._refused("was replaced")

    def _refused(self, what: str) -> FatalError:
        return FatalError(
            f"{self._path} {what} after {self._position} bytes of it had been read: lines may have been lost. Put the "
            "old file back, or give the new one another name and set source.path to it",
            ExitCode.DATA,
        )

    def _read(self, tenure: Tenure) -> tuple[Record, ...]:
        assert self._file is not None  # noqa: S101 - started
        records: list[Record] = []
        size = self._size()
        if size == self._waits_at_size:
            return ()
        start = self._position
        self._file.seek(start)
        while len(records) < MAX_POLL_LINES and self._position - start < MAX_POLL_BYTES:
            line = read_line(self._file)
            if not line.ended:  # the end of the file, perhaps in the middle of a line
                self._waits_at_size = self._position + line.length
                self._exhausted = not self._follow
                break
            offset, self._position = self._position, self._position + line.length
            if line.head.strip():
                records.append(Record(tenure, offset, self._position, key=None, value=line.head.rstrip(b"\r\n")))
        return tuple(records)

    def _save(self, next_offset: int) -> bool:
        length, digest = self._head
        position: dict[str, str | int] = {
            "topic_id": self._file_id,
            "head_bytes": length,
            "head_sha256": digest,
            "next_offset": next_offset,
        }
        try:
            self._positions.save_position(self._name, position)
        except RetriableError as error:
            log.warning("position_not_saved", error=str(error))
            return False
        self._committed = next_offset
        return True


def _wait(seconds: float) -> None:
    threading.Event().wait(seconds)
