"""Sends dead letters back to the input, in the order of their records: to the topic, or to a file of events."""

import base64
import json
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path

from rich.console import Console

from corlld.commands.letter_judgement import UNFINISHED, Judge, Outgoing, Verdict
from corlld.commands.letter_views import printable
from corlld.commands.under_way import EventProducer, UnderWay
from corlld.errors import ExitCode, FatalError
from corlld.records import StoredLetter
from corlld.system.plurals import counted
from corlld.system.progress import Advance
from corlld.system.signals import stop_on_signals

MAX_LETTERS = 200_000  # an entry in memory for each; their bytes lie in a temporary file
SHOWN_LETTERS = 1_000
SPOOLED_IN_MEMORY_BYTES = 16 * 1024 * 1024

Place = tuple[str, int, int]  # topic id, partition and offset of the letter's record


class Outbox:
    """Keeps what goes back, and yields it in the order of the records, so that a user's events keep their order.

    The letters of a user lie in several partitions of the dead-letter topic, so they are not read in this order. They
    are copied to a temporary file, which nobody else can open.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - `close` closes it
            SPOOLED_IN_MEMORY_BYTES, prefix="corlld-letters-"
        )
        self._places: list[tuple[Place, int]] = []  # with the position in the file
        self._users: Counter[int] = Counter()  # by a hash of the user's id
        self.erasures = 0

    def __len__(self) -> int:
        return len(self._places)

    def __str__(self) -> str:
        erasures = f", {self.erasures} to erase a user" if self.erasures else ""
        return f"{counted(len(self), 'event')} of {counted(len(self._users), 'user')}{erasures}"

    @property
    def by_partition(self) -> Counter[int]:
        """The number of events by the partition of their records."""
        return Counter(partition for (_, partition, _), _ in self._places)

    def add(self, place: Place, outgoing: Outgoing) -> None:
        """Add an event. Raises FatalError if there are too many, or the temporary file can't be written."""
        if len(self) >= MAX_LETTERS:
            raise FatalError(
                f"more than {MAX_LETTERS:,} letters match: replay a part of them, with --reason, --user or --since",
                ExitCode.USAGE,
            )
        value = None if outgoing.value is None else _encoded(outgoing.value)
        line = [_encoded(outgoing.key), value, [(name, _encoded(raw)) for name, raw in outgoing.headers]]
        self._places.append((place, self._file.tell()))
        try:
            self._file.write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise FatalError(
                f"the temporary copy in {tempfile.gettempdir()} can't be written: {error.strerror}",
                ExitCode.CANNOT_WRITE,
            ) from None
        self._users[hash(outgoing.key)] += 1
        self.erasures += outgoing.erases

    def records(self) -> Iterator[tuple[bytes, bytes | None, list[tuple[str, bytes]]]]:
        """Yield key, value and headers of each event, in order. Nothing may be added meanwhile."""
        for _, position in sorted(self._places):
            self._file.seek(position)
            key, value, headers = json.loads(self._file.readline())
            decoded = [(name, base64.b64decode(raw)) for name, raw in headers]
            yield base64.b64decode(key), None if value is None else base64.b64decode(value), decoded

    def close(self) -> None:
        self._file.close()


def gather(letters: Iterable[StoredLetter], judge: Judge, outbox: Outbox) -> tuple[Counter[Verdict], list[str]]:
    """Judge the letters and put those that go back into the outbox.

    Returns the number of letters per verdict, and a line for each letter that does not go back, up to `SHOWN_LETTERS`.
    """
    verdicts: Counter[Verdict] = Counter()
    lines: list[str] = []
    for letter in letters:
        judged = judge.judge(letter)
        if judged is None:
            continue
        verdicts[judged.verdict] += 1
        if judged.outgoing is not None:
            outbox.add((letter.partition.topic_id, letter.partition.partition, letter.offset), judged.outgoing)
        elif len(lines) < SHOWN_LETTERS:
            why = f" ({judged.detail})" if judged.detail else ""
            lines.append(printable(f"{letter.key}: {judged.verdict}{why}"))
    kept = verdicts.total() - verdicts[Verdict.SEND]
    if kept > len(lines):
        lines.append(f"... and {kept - len(lines)} more")
    return verdicts, lines


def exit_code_of(verdicts: Counter[Verdict]) -> ExitCode:
    """Return DATA if a letter could not go back and something must be done about it."""
    return ExitCode.DATA if any(verdicts[verdict] for verdict in UNFINISHED) else ExitCode.OK


def send_back(outbox: Outbox, producer: EventProducer, console: Console) -> Counter[int]:
    """Send everything in the outbox, and return the number of events per partition.

    Raises FatalError if an event was not acknowledged, and KeyboardInterrupt if a signal asked to stop. Both say how
    many events were acknowledged.
    """
    stop = threading.Event()
    with stop_on_signals(stop.set), Advance(console, len(outbox)) as advance:
        under_way = UnderWay(advance, "event")
        for number, (key, value, headers) in enumerate(outbox.records(), start=1):
            while not (under_way.has_room or under_way.refused or stop.is_set()):
                under_way.wait()
            if under_way.refused or stop.is_set():
                break
            sent: Future[int] = producer.send(key, value, headers)
            under_way.add(number, len(value or b""), sent)
        problem = under_way.settle(stop.is_set)
    done = f"{under_way.acknowledged.total():,} of {counted(len(outbox), 'event')} acknowledged"
    again = "replay again when the daemon has read them: what it has learnt is left out by its event id"
    if problem is not None:
        what, code = problem
        raise FatalError(f"{what}; {done}\n{again}", code)
    if under_way.acknowledged.total() < len(outbox):
        raise KeyboardInterrupt(f"interrupted: {done}\n{again}")
    return under_way.acknowledged


def write_back(outbox: Outbox, path: Path) -> None:
    """Write the events to a new file, one per line, readable by its owner alone: whole, or not at all.

    Raises FatalError if the file exists or can't be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise FatalError(f"{path} exists already: name a new file", ExitCode.USAGE) from None
    except OSError as error:
        raise FatalError(f"{path} can't be written: {error.strerror}", ExitCode.CANNOT_WRITE) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines((value or b"") + b"\n" for _, value, _ in outbox.records())
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise FatalError(f"{path} can't be written: {error.strerror}", ExitCode.CANNOT_WRITE) from None
        raise


def _encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
