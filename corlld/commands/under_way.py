"""Events that were handed to the topic's producer and are not acknowledged yet: how many, how long, and what failed."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Protocol

from corlld.errors import ExitCode, RetriableError, TooLargeForTopic
from corlld.system.progress import Advance

MAX_EVENTS_UNDER_WAY = 1_000
MAX_BYTES_UNDER_WAY = 16 * 1024 * 1024
LOOK_SECONDS = 0.1  # a signal is noticed within this time while nothing is acknowledged
GRACE_SECONDS = 5.0  # after a refusal or a signal, events under way may still be acknowledged

Problem = tuple[str, ExitCode]


class EventProducer(Protocol):
    """The topic of edit events, as the commands that send to it see it."""

    def send(self, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> "Future[int]":
        """Send an event. The future's result is the partition that took it; its exception is RetriableError."""


class UnderWay:
    """Keeps the events that were sent and are not acknowledged yet, in order.

    Args:
        advance: moved by each acknowledgement.
        noun: what the numbers of the events count, for messages.
    """

    def __init__(self, advance: Advance, noun: str = "line") -> None:
        self._advance = advance
        self._noun = noun
        self._events: deque[tuple[int, int, Future[int]]] = deque()  # number, bytes
        self._nbytes = 0
        self.acknowledged: Counter[int] = Counter()  # by partition
        self.through = 0  # all events up to this number are acknowledged
        self.refused = False

    @property
    def has_room(self) -> bool:
        return len(self._events) < MAX_EVENTS_UNDER_WAY and self._nbytes < MAX_BYTES_UNDER_WAY

    def add(self, number: int, nbytes: int, sent: "Future[int]") -> None:
        """Add an event. Numbers increase."""
        self._events.append((number, nbytes, sent))
        self._nbytes += nbytes
        sent.add_done_callback(self._note_refusal)
        self._take_acknowledged()

    def wait(self) -> None:
        """Wait for the first event, at most `LOOK_SECONDS`."""
        wait([self._events[0][2]], LOOK_SECONDS)
        self._take_acknowledged()

    def settle(self, stopped: Callable[[], bool]) -> Problem | None:
        """Wait until all are acknowledged, or `GRACE_SECONDS` after a refusal or a stop. Returns the first refusal."""
        while self._events and not self.refused and not stopped():
            self.wait()
        wait([sent for _, _, sent in self._events], GRACE_SECONDS)
        self._take_acknowledged()
        problem: Problem | None = None
        for number, _, sent in self._events:  # from the first event that was refused or has no answer
            if not sent.done():
                continue
            if (error := sent.exception()) is None:
                self._count(sent)
            elif problem is None:
                problem = _problem(f"{self._noun} {number}", error)
        return problem

    def _note_refusal(self, sent: "Future[int]") -> None:
        """Note it if the event was refused. Runs in the producer's thread."""
        if sent.exception() is not None:
            self.refused = True

    def _take_acknowledged(self) -> None:
        while self._events and self._events[0][2].done() and self._events[0][2].exception() is None:
            self.through, nbytes, sent = self._events.popleft()
            self._nbytes -= nbytes
            self._count(sent)

    def _count(self, sent: "Future[int]") -> None:
        self.acknowledged[sent.result()] += 1
        self._advance(1)


def _problem(event: str, error: BaseException) -> Problem:
    if isinstance(error, TooLargeForTopic):
        return f"{event}: larger than the topic's max.message.bytes allows", ExitCode.DATA
    if isinstance(error, RetriableError):
        return f"{event}: {error}", ExitCode.UNAVAILABLE
    raise error  # a bug
