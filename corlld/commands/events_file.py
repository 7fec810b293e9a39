"""A file of edit events, one per line: opened so that it can be read twice, and validated as a whole.

Every line passes the decoder of the daemon. It is plain JSON, or a CloudEvent in structured mode (with `specversion`).
No message quotes a line.
"""

import fcntl
import os
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from corlld.errors import ExitCode, FatalError, InvalidEvent, InvalidReason
from corlld.events.decoder import EventDecoder
from corlld.records import EditEvent, EraseEvent
from corlld.system.formats import refuse_other_formats
from corlld.system.lines import texts
from corlld.system.plurals import counted

STANDARD_INPUT = "-"
SPOOLED_IN_MEMORY_BYTES = 16 * 1024 * 1024
COPIED_BYTES = 64 * 1024
SHOWN_PROBLEMS = 1_000  # in a file of another kind, every line is wrong


@dataclass(frozen=True, slots=True)
class Contents:
    """Figures of a valid input."""

    lines: int  # blank lines included
    events: int
    erasures: int
    with_messages: int
    users: int
    most_of_one_user: int  # the events of the user who has most

    def __str__(self) -> str:
        parts = [f"{counted(self.events, 'event')} of {counted(self.users, 'user')}"]
        if self.erasures:
            parts.append(f"{self.erasures} to erase a user")
        if self.with_messages:
            parts.append(f"{self.with_messages} with messages (for a model with a chat template)")
        return ", ".join(parts)


@contextmanager
def opened(name: str) -> Iterator[IO[bytes]]:
    """Open the input so that it can be read twice: a pipe is copied first, to a private file if it is large.

    Args:
        name: a path, or `-` for standard input.

    Raises FatalError for a file that does not exist, is a folder, can't be read or can't be copied.
    """
    if name == STANDARD_INPUT:
        if sys.stdin is None or not _can_be_read(sys.stdin.fileno()):
            raise FatalError("standard input is closed", ExitCode.USAGE)
        yield from _readable_twice(sys.stdin.buffer, "standard input")
        return
    with _open(name) as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
            raise FatalError(f"{name}: neither a file nor a pipe", ExitCode.USAGE)
        yield from _readable_twice(file, name)


def _can_be_read(descriptor: int) -> bool:
    """Return False for what `hold_closed_streams` put in the place of a closed standard input."""
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY


def _open(name: str) -> IO[bytes]:
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise FatalError(f"{name}: {error.strerror}", ExitCode.USAGE) from None


def _readable_twice(source: IO[bytes], title: str) -> Iterator[IO[bytes]]:
    if stat.S_ISREG(os.fstat(source.fileno()).st_mode):
        yield source
        return
    with tempfile.SpooledTemporaryFile(SPOOLED_IN_MEMORY_BYTES, prefix="corlld-send-") as copy:
        try:
            for part in _parts(source, title):
                copy.write(part)
        except OSError as error:
            raise FatalError(
                f"the temporary copy in {tempfile.gettempdir()} can't be written: {error.strerror}",
                ExitCode.CANNOT_WRITE,
            ) from None
        copy.seek(0)
        yield copy


def _parts(source: IO[bytes], title: str) -> Iterator[bytes]:
    try:
        while part := source.read(COPIED_BYTES):
            yield part
    except OSError as error:
        raise FatalError(f"{title} can't be read: {error.strerror}", ExitCode.USAGE) from None


def validate(file: IO[bytes], name: str, decoder: EventDecoder) -> Contents:
    """Validate the file from its position to its end.

    Args:
        file: open for reading.
        name: of the file, for messages.
        decoder: judges each line.

    Raises FatalError, which lists the wrong lines, if there are any, or if the file has no event or is in another
    format.
    """
    refuse_other_formats(file, name)
    problems: list[str] = []
    wrong = erasures = with_messages = lines = 0
    events_of: Counter[str] = Counter()
    for lines, line in numbered_lines(file):
        try:
            event = event_of(decoder, line)
        except InvalidEvent as error:
            wrong += 1
            if len(problems) < SHOWN_PROBLEMS:
                not_text = error.reason is InvalidReason.NOT_JSON and not _is_text(line)
                problems.append(f"line {lines}: " + (f"{error.reason}: not text in UTF-8" if not_text else str(error)))
            continue
        if event is None:
            continue
        events_of[event.user_id] += 1
        erasures += isinstance(event, EraseEvent)
        with_messages += isinstance(event, EditEvent) and event.messages is not None
    if wrong:
        more = [f"... and {wrong - len(problems)} more"] if wrong > len(problems) else []
        verdict = "is not a valid event" if wrong == 1 else "are not valid events"
        heading = f"{name}: {wrong:,} of {counted(wrong + events_of.total(), 'line')} {verdict}"
        raise FatalError("\n".join([heading, *problems, *more]), ExitCode.DATA)
    if not events_of:
        raise FatalError(f"{name}: it has no event", ExitCode.DATA)
    return Contents(lines, events_of.total(), erasures, with_messages, len(events_of), max(events_of.values()))


def numbered_lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Iterate over the lines without their ends, numbered from 1."""
    return enumerate(texts(file), start=1)


def event_of(decoder: EventDecoder, line: bytes) -> EditEvent | EraseEvent | None:
    """Decode a line; None if it is blank, as in the JSONL source. Raises InvalidEvent."""
    return decoder.decode(None, line, ()) if line.strip() else None


def _is_text(line: bytes) -> bool:
    try:
        return "\0" not in line.decode()
    except UnicodeDecodeError:
        return False
