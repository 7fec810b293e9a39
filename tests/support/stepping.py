"""A daemon whose turns and jobs are run one by one, all in the caller's thread: nothing happens by itself."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any
from unittest.mock import patch

from corlld.loop.daemon import Daemon
from tests.support.daemon_parts import Parts
from tests.support.group import Member

Job = Callable[[], None]


class Killed(BaseException):
    """kill -9, as far as one process can play it."""


class StepwiseExecutor:
    """Keeps its jobs until they are run. at_once: runs them as they come."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.jobs: list[Job] = []
        self.at_once = False

    def submit(self, job: Callable[..., Any], *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()

        def run() -> None:
            try:
                result = job(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - the future has it, as with any executor
                future.set_exception(error)
            else:
                future.set_result(result)

        if self.at_once:
            run()
        else:
            self.jobs.append(run)
        return future

    def run_one(self, which: int = 0) -> None:
        """Run one of the jobs that threads would have begun by now, if there is any."""
        if self.jobs:
            self.jobs.pop(min(which, self.threads - 1, len(self.jobs) - 1))()

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        """Forget the jobs that were not run."""
        self.jobs.clear()


class Life:
    """A daemon from its start to its kill or stop."""

    def __init__(self, parts: Parts, member: Member) -> None:
        executors: dict[str, StepwiseExecutor] = {}

        def executor(threads: int, name: str) -> StepwiseExecutor:
            return executors.setdefault(name, StepwiseExecutor(threads))

        with patch("corlld.loop.daemon.ThreadPoolExecutor", executor):
            self._daemon: Daemon = parts.daemon(member)
        self.member = member
        self.trainer = executors["trainer"]
        self.pool = executors["store"]

    def turn(self) -> None:
        """Turn the loop once. What it has begun before goes on only by `run_one`."""
        self._daemon._turn()

    def run_jobs(self) -> None:
        """Run all jobs that were begun."""
        for executor in (self.trainer, self.pool):
            while executor.jobs:
                executor.run_one()

    def stop(self) -> None:
        """Stop as on SIGTERM: what has begun is finished, stored, published and committed."""
        self.run_jobs()
        for executor in (self.trainer, self.pool):
            executor.at_once = True
        self._daemon.request_stop()
        self._daemon.run()
