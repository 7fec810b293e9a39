"""`corlld send`: events from a file to the topic. All of it is validated before the first event goes."""

import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import IO, Protocol

from rich.console import Console

from corlld.assembly import build_event_producer
from corlld.commands.events_file import STANDARD_INPUT, Contents, counted, event_of, numbered_lines, opened, validate
from corlld.errors import ExitCode, FatalError, InvalidEvent, RetriableError, TooLargeForTopic
from corlld.events.decoder import EventDecoder
from corlld.settings.sections import Settings
from corlld.system.progress import Advance
from corlld.system.signals import stop_on_signals

MAX_WAIT_SECONDS = 10.0  # a person waits: a topic that is not there by then won't come
MAX_EVENTS_UNDER_WAY = 1_000
MAX_BYTES_UNDER_WAY = 16 * 1024 * 1024
LOOK_SECONDS = 0.1  # how soon a signal is noticed while nothing is acknowledged
GRACE_SECONDS = 5.0  # after a refusal, or a signal, what is under way may still be acknowledged

Problem = tuple[str, ExitCode]


class EventProducer(Protocol):
    """The topic, for `send`."""

    def send(self, key: bytes, value: bytes) -> "Future[int]":
        """Done once acknowledged, with the partition that took it. RetriableError as its exception where it was not."""


def send_file(settings: Settings, name: str, *, dry_run: bool, console: Console) -> str:
    """Validates the input and sends it. Returns what was done, as a sentence.

    Args:
        settings: `kafka` and `events` are used; with `dry_run` no broker is needed.
        name: a file, or `-`.
        dry_run: validate only.
        console: where progress is shown.

    Raises FatalError for an input, a broker or a topic that is not as it has to be; KeyboardInterrupt as `send`.
    """
    # A file has no keys, and only the daemon knows whether its model takes messages.
    decoder = EventDecoder(settings.events, supports_messages=True, key_required=False)
    stop = threading.Event()
    with opened(name) as file:
        start = file.tell()
        title = "standard input" if name == STANDARD_INPUT else name
        try:
            contents = validate(file, title, decoder)
        except FatalError as error:
            raise error if dry_run else FatalError(f"{error}\nnothing was sent", error.exit_code) from None
        if dry_run:
            return f"{contents}: valid (--dry-run)"
        producer = build_event_producer(settings, min(MAX_WAIT_SECONDS, settings.operations.startup_timeout_seconds))
        try:
            file.seek(start)
            with stop_on_signals(stop.set):
                acknowledged = send(
                    file,
                    title,
                    decoder,
                    contents,
                    producer,
                    stopped=stop.is_set,
                    ids_remembered=settings.state.recent_event_ids,
                    console=console,
                )
        finally:
            producer.close(0)  # what is not acknowledged by now was given up
    where = counted(len(acknowledged), "partition")
    return f"{contents}: acknowledged by all replicas, in {where} of topic {settings.kafka.topic}"


def send(
    file: IO[bytes],
    name: str,
    decoder: EventDecoder,
    contents: Contents,
    producer: EventProducer,
    *,
    stopped: Callable[[], bool],
    ids_remembered: int,
    console: Console,
) -> Counter[int]:
    """Sends what `validate` saw, in order, and returns the number of events in each partition.

    Args:
        file: at the place where `validate` began.
        stopped: true once a signal asks to stop.
        ids_remembered: `state.recent_event_ids`: more events of one user can't be told from new ones when sent again.
        console: where progress is shown.

    Raises FatalError where an event was not acknowledged, or the file is another one now; KeyboardInterrupt where it
    was stopped. Both say how many events were acknowledged, and how to send the rest.
    """
    with Advance(console, contents.events) as advance:
        under_way = _UnderWay(advance)
        changed = _hand_over(file, decoder, contents, producer, under_way, stopped)
        problem = under_way.settle(stopped) or changed
    acknowledged = under_way.acknowledged.total()
    if acknowledged == contents.events and problem is None:
        return under_way.acknowledged
    done = f"{acknowledged} of {counted(contents.events, 'event')} acknowledged"
    again = _how_to_send_again(contents, under_way.through_line, ids_remembered)
    if problem is None:
        raise KeyboardInterrupt(f"interrupted: {done}\n{again}")
    what, code = problem
    raise FatalError(f"{name}: {what}; {done}\n{again}", code)


def _hand_over(
    file: IO[bytes],
    decoder: EventDecoder,
    contents: Contents,
    producer: EventProducer,
    under_way: "_UnderWay",
    stopped: Callable[[], bool],
) -> Problem | None:
    """Hands all events to the producer, as long as none is refused. Tells where the file is another one by now."""
    changed = ("the file was changed while it was sent", ExitCode.DATA)
    sent = 0
    for number, line in numbered_lines(file):
        if number > contents.lines:  # it grew
            break
        try:
            event = event_of(decoder, line)
        except InvalidEvent:
            return changed
        if event is None:
            continue
        while not (under_way.has_room or under_way.refused or stopped()):
            under_way.wait()
        if under_way.refused or stopped():
            return None
        under_way.add(number, len(line), producer.send(event.user_id.encode(), line))
        sent += 1
    return None if sent == contents.events else changed


class _UnderWay:
    """Events that were sent and are not acknowledged yet, in order."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._events: deque[tuple[int, int, Future[int]]] = deque()  # line, bytes
        self._nbytes = 0
        self.acknowledged: Counter[int] = Counter()  # by partition
        self.through_line = 0  # all events up to this line are acknowledged
        self.refused = False

    @property
    def has_room(self) -> bool:
        return len(self._events) < MAX_EVENTS_UNDER_WAY and self._nbytes < MAX_BYTES_UNDER_WAY

    def add(self, line: int, nbytes: int, sent: "Future[int]") -> None:
        self._events.append((line, nbytes, sent))
        self._nbytes += nbytes
        sent.add_done_callback(self._note_refusal)
        self._take_acknowledged()

    def wait(self) -> None:
        """For the first one, but not for long."""
        wait([self._events[0][2]], LOOK_SECONDS)
        self._take_acknowledged()

    def settle(self, stopped: Callable[[], bool]) -> Problem | None:
        """Wait until all are acknowledged; after a refusal or a stop, only a little longer. Tells the first refusal."""
        while self._events and not self.refused and not stopped():
            self.wait()
        wait([sent for _, _, sent in self._events], GRACE_SECONDS)
        self._take_acknowledged()
        problem: Problem | None = None
        for line, _, sent in self._events:  # what stands behind one that was refused, or has no answer
            if not sent.done():
                continue
            if (error := sent.exception()) is None:
                self._count(sent)
            elif problem is None:
                problem = _problem(line, error)
        return problem

    def _note_refusal(self, sent: "Future[int]") -> None:
        """Runs in the producer's thread."""
        if sent.exception() is not None:
            self.refused = True

    def _take_acknowledged(self) -> None:
        while self._events and self._events[0][2].done() and self._events[0][2].exception() is None:
            self.through_line, nbytes, sent = self._events.popleft()
            self._nbytes -= nbytes
            self._count(sent)

    def _count(self, sent: "Future[int]") -> None:
        self.acknowledged[sent.result()] += 1
        self._advance(1)


def _problem(line: int, error: BaseException) -> Problem:
    if isinstance(error, TooLargeForTopic):
        return f"line {line}: larger than the topic's max.message.bytes lets in", ExitCode.DATA
    if isinstance(error, RetriableError):
        return f"line {line}: {error}", ExitCode.UNAVAILABLE
    raise error  # a bug


def _how_to_send_again(contents: Contents, through_line: int, ids_remembered: int) -> str:
    if contents.most_of_one_user <= ids_remembered:
        return "sending all of it again is safe: an event id is applied once"
    return (
        f"send it again without its first {counted(through_line, 'line')}: they are acknowledged, and the daemon tells "
        f"duplicates by the last {ids_remembered} event ids of a user, while one user has "
        f"{contents.most_of_one_user} events here"
    )
