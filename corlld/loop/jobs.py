"""Jobs that run in other threads and whose results come back to the loop. Jobs that failed for now are tried again.

It does not know what the jobs do.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, ParamSpec, TypeVar

import structlog

from corlld.errors import RetriableError
from corlld.observer import Observer
from corlld.records import Stage

log = structlog.get_logger("corlld.jobs")

FIRST_RETRY_SECONDS = 0.1

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=Exception)


@dataclass(frozen=True, slots=True)
class Task:
    """Names a thing that is tried until it is done.

    subject: whose state or version, by uid; or which dead letter.
    """

    stage: Stage
    subject: Hashable


@dataclass(frozen=True, slots=True)
class Unless(Generic[E]):
    """Errors that end a task: `then` is called with one in place of another try."""

    error: type[E] | tuple[type[E], ...]
    then: Callable[[E], None]


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """The result of a job, and how long the job took."""

    result: T
    seconds: float


class Jobs:
    """Completions and retries. Handlers run in the thread that calls `handle_completions`: the loop.

    Args:
        retry_max_seconds: longest pause between tries.
        clock: monotonic seconds.
        observer: each retry is reported to it.
    """

    def __init__(self, retry_max_seconds: float, clock: Callable[[], float], observer: Observer) -> None:
        self._retry_max_seconds = retry_max_seconds
        self._observer = observer
        self._clock = clock
        self._completions: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._retries: list[tuple[float, int, Callable[[], None]]] = []  # a heap: due time, order, what to call
        self._sequence = itertools.count()
        self._failures: dict[Task, int] = {}  # in a row
        self._calls: dict[object, float] = {}  # timed jobs under way: when they began. The workers' threads write

    @property
    def failing_stages(self) -> list[Stage]:
        return sorted({task.stage for task in self._failures})

    def submit(
        self,
        executor: Executor,
        then: "Callable[[Future[T]], None]",
        job: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Run `job` in the executor, and then `then` in the loop."""
        self._when_done(executor.submit(job, *args, **kwargs), then)

    def until_done(
        self,
        task: Task,
        begin: "Callable[[], Future[T] | None]",
        then: Callable[[T], None],
        unless: Unless[Any] | None = None,
        failed: Callable[[RetriableError], None] = lambda error: None,
    ) -> None:
        """Try until it works, and then call `then` in the loop with the result.

        A RetriableError is logged, and `begin` is called again after a pause. Any other error is raised in the loop.

        Args:
            task: what is tried. Until it is done its stage counts as failing if the last try failed.
            begin: starts one try; called in the loop. None: no try is needed any more. The task ends without `then`.
            then: called in the loop.
            unless: an error that ends the task in another way. The task then no longer counts as failing.
            failed: called in the loop after each try that failed for now, before the pause.
        """

        def done(future: "Future[T]") -> None:
            error = future.exception()
            if unless is not None and isinstance(error, unless.error):
                self._failures.pop(task, None)
                unless.then(error)
            elif isinstance(error, RetriableError):
                self._try_later(task, error, lambda: self.until_done(task, begin, then, unless, failed))
                failed(error)
            else:
                result = future.result()  # raises the error of a job whose fate is not a retry
                if self._failures.pop(task, 0):
                    log.info("works_again", stage=task.stage.value)
                then(result)

        if (future := begin()) is None:
            self._failures.pop(task, None)
        else:
            self._when_done(future, done)

    def handle_completions(self, wait_seconds: float = 0.0) -> None:
        """Run the handlers of completed jobs. If there are none, wait for the first one up to `wait_seconds`."""
        try:
            handler = self._completions.get(timeout=wait_seconds) if wait_seconds else self._completions.get_nowait()
            while True:
                handler()
                handler = self._completions.get_nowait()
        except Empty:
            return

    def run_due_retries(self, now: float) -> None:
        while self._retries and self._retries[0][0] <= now:
            heapq.heappop(self._retries)[2]()

    def timed(self, job: Callable[P, T]) -> Callable[P, Timed[T]]:
        """Return the job in a form that measures its seconds, and that `longest_call_seconds` knows while it runs."""

        def run(*args: P.args, **kwargs: P.kwargs) -> Timed[T]:
            call, started = object(), self._clock()
            self._calls[call] = started
            try:
                result = job(*args, **kwargs)
            finally:
                del self._calls[call]
            return Timed(result, self._clock() - started)

        return run

    def longest_call_seconds(self, now: float) -> float:
        """Return how long the oldest timed job that is under way has been running; 0 if there is none."""
        return now - min(tuple(self._calls.values()), default=now)

    def _when_done(self, future: "Future[T]", then: "Callable[[Future[T]], None]") -> None:
        """Run `then` in the loop once the future is done. A cancelled future is forgotten: the loop is ending."""

        def enqueue(done: "Future[T]") -> None:
            if not done.cancelled():
                self._completions.put(lambda: then(done))

        future.add_done_callback(enqueue)

    def _try_later(self, task: Task, error: RetriableError, again: Callable[[], None]) -> None:
        failures = self._failures[task] = self._failures.get(task, 0) + 1
        pause = min(self._retry_max_seconds, FIRST_RETRY_SECONDS * 2 ** min(failures - 1, 20))
        pause *= random.uniform(0.5, 1.0)  # noqa: S311 - jitter, so that many users don't come back at once
        stage = task.stage
        log.warning("will_try_again", stage=stage.value, problem=str(error), failures=failures, pause_seconds=pause)
        self._observer.will_retry(stage)
        heapq.heappush(self._retries, (self._clock() + pause, next(self._sequence), again))
