"""Asks about topic and group in a thread of its own, so that no poll waits for an answer that does not come."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

from corlld.sources.kafka.client import TopicView
from corlld.sources.kafka.options import LOOKUP_SECONDS

Answer = Future[TopicView | None]


class Questions:
    """One question at a time. Called from the source's thread.

    Args:
        look: asks the cluster; called in the other thread.
        every_seconds: how often it is asked if nothing changes.
    """

    def __init__(self, look: Callable[[], TopicView | None], every_seconds: float) -> None:
        self._look = look
        self._every_seconds = every_seconds
        self._asking = ThreadPoolExecutor(1, "kafka-lookup")
        self._answer: Answer | None = None
        self._next = 0.0
        self._not_before = 0.0  # no question is asked earlier, even about a new assignment
        self.serves = 0  # the newest assignment when the question was asked

    def ask_if_due(self, assignment: int, *, waiting: bool) -> bool:
        """Ask if it is time, or if partitions are waiting that no answer serves. Return True if it asked.

        assignment: the number of the newest one.
        """
        now = time.monotonic()
        newly_parked = waiting and self.serves < assignment
        if self._answer is not None or now < self._not_before or not (newly_parked or now >= self._next):
            return False
        self.serves = assignment
        self._next = now + self._every_seconds
        self._answer = self._asking.submit(self._look)
        return True

    def take_answer(self, wait_until: float | None) -> Answer | None:
        """Return the answer once it is there. Wait for it until then (monotonic); None: not at all."""
        if self._answer is None:
            return None
        if wait_until is not None:
            wait_for([self._answer], max(0.0, wait_until - time.monotonic()))
        if not self._answer.done():
            return None
        answer, self._answer = self._answer, None
        return answer

    def ask_now(self) -> TopicView | None:
        """Ask out of turn, and wait. Raises what `look` raises, and TimeoutError."""
        return self._asking.submit(self._look).result(LOOKUP_SECONDS)

    def hasten(self, seconds: float) -> None:
        """Ask in so many seconds, if it would be later."""
        self._next = min(self._next, time.monotonic() + seconds)

    def pause(self, seconds: float) -> None:
        """Ask again after so many seconds, not earlier. The last answer serves no assignment."""
        self.serves = 0
        self._not_before = self._next = time.monotonic() + seconds

    def close(self) -> None:
        """Wait for the question under way, which its own timeouts bound."""
        self._asking.shutdown(wait=True, cancel_futures=True)
