"""Reads a file with one JSON object per line: to its end, or for ever as it grows.

A file that is followed may be rotated by rename and create. It sees when the file was replaced in another way,
shortened or written over since its position was saved, and refuses to go on.
"""

import hashlib
import os
import threading
import time
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path

import structlog

from corlld.errors import ConfigurationError, FatalError, RetriableError, UnavailableError
from corlld.protocols import PositionStore
from corlld.records import Polled, Record, SourcePartition, Tenure
from corlld.sources.jsonl.open_file import Head, OpenFile
from corlld.sources.jsonl.rotation import Successors, find_renamed

log = structlog.get_logger("corlld.jsonl")

TOPIC = "jsonl"  # never the file's name: it may be personal
RETRY_SECONDS = 0.1


class JsonlSource:
    """Implements `corlld.protocols.Source`. Offsets are byte positions in the file and those that it followed.

    All files of a rotation are one partition: offsets go on increasing, so that users' states keep one `applied`. The
    position store names one file. It names the next one only once all of the old file is committed.

    Args:
        path: the file.
        follow: wait for the file to grow (at the start: to appear), and go on with the file that takes its name. False:
            stop at its end, which ends its last line too.
        positions: keeps how far the file was read, its inode, and a digest of its beginning that identifies it.
    """

    def __init__(self, path: Path, *, follow: bool, positions: PositionStore) -> None:
        self._path = path
        self._follow = follow
        self._positions = positions
        self._name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
        self._file: OpenFile | None = None
        self._file_start = 0  # offset of the file's first byte: the bytes of the files before it
        self._successors = Successors(path)
        self._tenure: Tenure | None = None
        self._had_commits = False
        self._topic_id = ""
        self._committed = 0
        self._paused = False
        self._exhausted = False

    @property
    def cluster_id(self) -> str:
        return TOPIC

    @property
    def exhausted(self) -> bool:
        return self._exhausted

    @property
    def healthy(self) -> bool:
        return True

    def start(self, timeout_seconds: float) -> None:
        """Open and lock the file, and load the position to go on at.

        Raises UnavailableError if the file does not appear in time or has another reader, ConfigurationError if it
        can't be read, FatalError if it is not the file that was read before, or is no file of lines.
        """
        file = self._file = self._open(timeout_seconds)
        # After the lock: the reader before may have committed until then.
        try:
            saved = self._positions.load_position(self._name)
        except RetriableError as error:
            raise FatalError(f"the place in {self._path} can't be loaded: {error}", error.exit_code) from None
        self._had_commits = saved is not None
        if saved is None:
            self._topic_id = uuid.uuid4().hex
            file.measure_head()
            return
        self._topic_id = str(saved["topic_id"])
        self._committed = int(saved["next_offset"])
        self._file_start = int(saved.get("file_start", 0))  # versions before rotation saved neither this nor the inode
        head = Head(int(saved["head_bytes"]), str(saved["head_sha256"]))
        position, inode = self._committed - self._file_start, int(saved.get("inode", 0))
        if self._follow and (renamed := find_renamed(self._path, file, head, inode, position)) is not None:
            self._successors.add(file)
            file = self._file = renamed
        file.go_on_at(position, head)

    def has_commits(self) -> bool:
        return self._had_commits

    def poll(self, timeout_seconds: float) -> Polled:
        begun: tuple[Tenure, ...] = ()
        if self._tenure is None:
            # The topic id must be durable before any record is applied under it.
            if not self._save(self._position):
                _wait(timeout_seconds)
                return Polled()
            self._tenure = Tenure(SourcePartition(TOPIC, self._topic_id, 0), 1, self._position)
            begun = (self._tenure,)
        if self._follow:
            self._successors.look(self._open_file)
        self._open_file.check_unchanged()
        records = () if self._paused or begun else self._read(self._tenure)
        if not records and not begun:
            _wait(timeout_seconds)
        return Polled(records, begun=begun)

    def positions(self) -> Mapping[Tenure, int]:
        return {self._tenure: self._position} if self._tenure else {}

    def ends(self) -> Mapping[Tenure, int]:
        """Return the end of the newest file, which includes a last line without its end."""
        return {self._tenure: self._end} if self._tenure else {}

    def pause_only(self, tenures: Collection[Tenure]) -> None:
        self._paused = self._tenure in tenures

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
        self._successors.close()
        self._file.close()
        self._file = None
        self._tenure = None

    # --- the file -----------------------------------------------------------------------------------------------------

    @property
    def _open_file(self) -> OpenFile:
        assert self._file is not None  # noqa: S101 - started
        return self._file

    @property
    def _position(self) -> int:
        return self._file_start + self._open_file.position

    @property
    def _end(self) -> int:
        return self._file_start + self._open_file.size + self._successors.nbytes

    def _open(self, timeout_seconds: float) -> OpenFile:
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                return OpenFile(self._path)
            except FileNotFoundError:
                if not self._follow:
                    raise ConfigurationError(f"source.path = {self._path} does not exist") from None
                if time.monotonic() >= deadline:
                    raise UnavailableError(f"{self._path} did not appear within {timeout_seconds:g} s") from None
                _wait(RETRY_SECONDS)

    def _read(self, tenure: Tenure) -> tuple[Record, ...]:
        to_the_end = not self._follow or self._successors.old_file_is_whole
        start = self._file_start
        records = tuple(
            Record(tenure, start + line.start, start + line.end, key=None, value=line.text)
            for line in self._open_file.read(to_the_end=to_the_end)
        )
        if to_the_end and self._open_file.at_end:
            self._exhausted = not self._follow
            if self._follow and self._committed == self._position:
                self._take_next_file()
        return records

    def _take_next_file(self) -> None:
        """Go on with the file that has the name now. All of the old one is committed."""
        old, file = self._open_file, self._successors.first(self._open_file)
        start = self._file_start
        self._file, self._file_start = file, start + old.position
        if self._save(self._position):
            self._successors.take_first()
            old.close()
        else:  # the old file stays the one that a restart would look for
            self._file, self._file_start = old, start

    def _save(self, next_offset: int) -> bool:
        file = self._open_file
        position: dict[str, str | int] = {
            "topic_id": self._topic_id,
            "head_bytes": file.head.length,
            "head_sha256": file.head.sha256,
            "inode": file.status.st_ino,
            "file_start": self._file_start,
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
