"""Dead letters in a file: one JSON object per line, durable before it is acknowledged; and read back."""

import base64
import json
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from corlld.errors import ExitCode, FatalError, RetriableError
from corlld.records import DeadLetter, LetterStream, StoredLetter
from corlld.settings.sections import DeadLetterSettings
from corlld.sources.dead_letters import letter_headers, letter_key, read_letter
from corlld.system.durable_files import fsync_folder
from corlld.system.lines import read_line
from corlld.system.stored_json import read_json


class JsonlDeadLetters:
    """Implements `corlld.protocols.DeadLetters`. A thread of its own writes: an fsync takes milliseconds.

    Args:
        path: made at the first letter, readable by its owner alone.
        settings: `payload` decides whether the record's own bytes are kept (base64, since they may not be UTF-8).
    """

    def __init__(self, path: Path, settings: DeadLetterSettings) -> None:
        self._path = path
        self._payload = settings.payload
        self._writer = ThreadPoolExecutor(1, "dead-letters")

    problem = None  # a file shows its problems when it is written

    def send(self, letter: DeadLetter) -> "Future[None]":
        line: dict[str, object] = {"key": letter_key(letter), "headers": letter_headers(letter)}
        if self._payload and letter.record.value is not None:
            line["payload"] = base64.b64encode(letter.record.value).decode()
        return self._writer.submit(self._append, json.dumps(line).encode() + b"\n")

    def close(self, timeout_seconds: float) -> None:
        """Wait for letters under way, however long: local writes need no timeout."""
        self._writer.shutdown(wait=True)

    def _append(self, line: bytes) -> None:
        try:
            new = not self._path.exists()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._write(file, line)
            finally:
                os.close(file)
            if new:
                fsync_folder(self._path.parent)
        except OSError as error:
            raise RetriableError(f"{self._path} can't be written: {error.strerror}") from None

    @staticmethod
    def _write(file: int, line: bytes) -> None:
        size = os.fstat(file).st_size
        try:
            left = memoryview(line)
            while left:
                left = left[os.write(file, left) :]
            os.fsync(file)
        except OSError:
            os.ftruncate(file, size)  # half a line would spoil the next one
            raise


@contextmanager
def letters_of_file(path: Path) -> Iterator[LetterStream]:
    """Open the letters of the file; none if there is no file. The daemon may write meanwhile.

    Raises FatalError if the file can't be read.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield LetterStream(f"file {path}", 0, "bytes", iter(()))
        return
    except OSError as error:
        raise FatalError(f"{path} can't be read: {error.strerror}", ExitCode.CANNOT_WRITE) from None
    with file:
        size = os.fstat(file.fileno()).st_size
        yield LetterStream(f"file {path}", size, "bytes", _letters(file, path, size))


def _letters(file: IO[bytes], path: Path, size: int) -> Iterator[tuple[int, StoredLetter | None]]:
    at = 0
    while at < size:
        try:
            line = read_line(file)
        except OSError as error:
            raise FatalError(f"{path} can't be read: {error.strerror}", ExitCode.CANNOT_WRITE) from None
        if not line.ended:  # the daemon still writes it
            return
        at += line.length
        yield line.length, _read(line.text)


def _read(line: bytes) -> StoredLetter | None:
    try:
        fields = read_json(line)
        payload = fields.get("payload")
        headers = [(str(name), str(value).encode()) for name, value in fields["headers"].items()]
        value = None if payload is None else base64.b64decode(payload, validate=True)
        return read_letter(str(fields["key"]).encode(), value, headers, stored_at=None)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
