"""Work handed to threads, whose results come back to the loop; what failed for now is tried again later."""

import heapq
import itertools
import random
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

import structlog

from corlld.errors import RetriableError
from corlld.observer import Observer
from corlld.records import Stage

log = structlog.get_logger("corlld.jobs")

FIRST_RETRY_SECONDS = 0.1

P = ParamSpec("P")
T = TypeVar("T")
What = tuple[Stage, object]  # and what of it: names a thing that is tried again


class Jobs:
    """Completions and retries. Handlers run in the thread that calls `handle_completions`: the loop.

    Args:
        retry_max_seconds: longest pause between tries.
        clock: monotonic seconds.
        observer: told of each retry.
    """

    def __init__(self, retry_max_seconds: float, clock: Callable[[], float], observer: Observer) -> None:
        self._retry_max_seconds = retry_max_seconds
        self._observer = observer
        self._clock = clock
        self._completions: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._retries: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._failures: dict[What, int] = {}  # in a row

    @property
    def failing_stages(self) -> list[Stage]:
        return sorted({stage for stage, _ in self._failures})

    def submit(
        self,
        executor: Executor,
        then: "Callable[[Future[T]], None]",
        job: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Run `job` in the executor, and then `then` in the loop."""
        self.when_done(executor.submit(job, *args, **kwargs), then)

    def when_done(self, future: "Future[T]", then: "Callable[[Future[T]], None]") -> None:
        """Run `then` in the loop once the future is done. A cancelled one is forgotten: the loop is ending."""

        def enqueue(done: "Future[T]") -> None:
            if not done.cancelled():
                self._completions.put(lambda: then(done))

        future.add_done_callback(enqueue)

    def handle_completions(self, wait_seconds: float = 0.0) -> None:
        """Run the handlers of what is done, waiting for a first one up to `wait_seconds`."""
        try:
            handler = self._completions.get(timeout=wait_seconds) if wait_seconds else self._completions.get_nowait()
            while True:
                handler()
                handler = self._completions.get_nowait()
        except Empty:
            return

    def failed(self, what: What, future: "Future[Any]", again: Callable[[], None]) -> bool:
        """True where the job failed for now: `again` will be called after a pause.

        Raises whatever else the job raised: its fate is not a retry.
        """
        error = future.exception()
        if error is None:
            if self._failures.pop(what, 0):
                log.info("works_again", stage=what[0].value)
            return False
        if not isinstance(error, RetriableError):
            raise error
        failures = self._failures[what] = self._failures.get(what, 0) + 1
        pause = min(self._retry_max_seconds, FIRST_RETRY_SECONDS * 2 ** min(failures - 1, 20))
        pause *= random.uniform(0.5, 1.0)  # noqa: S311 - jitter, so that many users don't come back at once
        log.warning("will_try_again", stage=what[0].value, problem=str(error), failures=failures, pause_seconds=pause)
        self._observer.will_retry(what[0])
        heapq.heappush(self._retries, (self._clock() + pause, next(self._sequence), again))
        return True

    def timed(self, job: Callable[P, T]) -> Callable[P, tuple[T, float]]:
        """The job, returning how many seconds it took as well."""

        def run(*args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
            started = self._clock()
            result = job(*args, **kwargs)
            return result, self._clock() - started

        return run

    def forget(self, what: What) -> None:
        """The thing ended in another way than by a try that worked."""
        self._failures.pop(what, None)

    def run_due_retries(self, now: float) -> None:
        while self._retries and self._retries[0][0] <= now:
            heapq.heappop(self._retries)[2]()
