"""Gives every record that was handed to kafka-python an end within a time, whatever its producer does.

Two faults of kafka-python 3.0 make this necessary. They are in its idempotent producer; it neither sends nor expires a
record again once they have struck, and `close` waits for its whole time-out:

- A record whose request was sent expires: the producer sets its id to -1, and then waits for a new id that it never
  asks for (`Sender.run_once`, `TransactionManager.reset_producer_id`).
- The broker goes away before the producer has an id: no record expires until the broker is back.

It does not know what is sent, nor where to.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, NamedTuple

from corlld.errors import RetriableError

GRACE_SECONDS = 5.0  # kafka-python expires most records by itself, and says more about it


class _Record(NamedTuple):
    deadline: float  # monotonic seconds
    answer: "Future[int]"
    producer: Any


class Deliveries:
    """Fails records that have no answer in time. Thread-safe.

    Args:
        seconds: how long an answer is waited for; records get it in the order of `expect`.
        overdue: called with the producer that gave no answer, before its record fails, in a thread of its own.
    """

    def __init__(self, seconds: float, overdue: Callable[[Any], None]) -> None:
        self._seconds = seconds
        self._overdue = overdue
        self._changed = threading.Condition()
        self._records: deque[_Record] = deque()  # the longest waiting first
        self._thread: threading.Thread | None = None
        self._closed = False

    def expect(self, answer: "Future[int]", producer: Any) -> None:
        """Note that a record was handed to the producer."""
        with self._changed:
            self._forget_answered()
            if not self._records:
                self._changed.notify()
            self._records.append(_Record(time.monotonic() + self._seconds, answer, producer))
            if self._thread is None:
                # A daemon thread, since waiting for a broker must not keep the process from ending.
                self._thread = threading.Thread(target=self._run, name="deliveries", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Fail all records that have no answer yet."""
        with self._changed:
            self._closed = True
            left, self._records = self._records, deque()
            self._changed.notify()
        for record in left:
            fail(record.answer, RetriableError("closed without an acknowledgement"))

    def _run(self) -> None:
        while (record := self._next_overdue()) is not None:
            self._overdue(record.producer)
            fail(record.answer, RetriableError(f"no acknowledgement within {self._seconds:g} s"))

    def _next_overdue(self) -> _Record | None:
        """Wait for a record that is overdue, and take it; None at the end."""
        with self._changed:
            while not self._closed:
                self._forget_answered()
                left = self._records[0].deadline - time.monotonic() if self._records else None
                if left is not None and left <= 0:
                    return self._records.popleft()
                self._changed.wait(left)
        return None

    def _forget_answered(self) -> None:
        while self._records and self._records[0].answer.done():
            self._records.popleft()


def acknowledge(answer: "Future[int]", partition: int) -> None:
    """Note that the record is acknowledged, unless it has failed already."""
    with suppress(InvalidStateError):
        answer.set_result(partition)


def fail(answer: "Future[int]", error: Exception) -> None:
    """Note that the record has failed, unless it has an answer already."""
    with suppress(InvalidStateError):
        answer.set_exception(error)
