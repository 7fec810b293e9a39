"""Readiness and liveness of the daemon: one judgement for `/readyz`, `/livez` and the metrics."""

import time
from collections.abc import Callable

from corlld.observer import Observer
from corlld.operations.liveness import Liveness
from corlld.records import LoopStatus, Stage


class Health(Observer):
    """Keeps whether the daemon is ready and alive. The start and the loop report to it; any thread may ask it.

    Args:
        liveness: receives every turn of the loop.
        clock: monotonic seconds, the daemon's.
    """

    def __init__(self, liveness: Liveness, clock: Callable[[], float] = time.monotonic) -> None:
        self._liveness = liveness
        self._clock = clock
        self._stopping = False
        self._waiting_for: tuple[Stage, ...] = (Stage.INPUT,)

    def starting(self, waiting_for: Stage) -> None:
        self._waiting_for = (waiting_for,)

    def loop_begins(self, now: float) -> None:
        self._liveness.begins(now)

    def turned(self, status: LoopStatus) -> None:
        self._liveness.turned(status)
        self._waiting_for = status.waiting_for
        self._stopping = status.stopping

    @property
    def waiting_for(self) -> tuple[Stage, ...]:
        """Return the stages that keep the daemon from being ready, as last reported."""
        return self._waiting_for

    def not_alive(self) -> str | None:
        """Return a sentence that says what is stuck, or None if nothing is."""
        return self._liveness.problem(self._clock())

    def not_ready(self) -> str | None:
        """Return the reason why the daemon does not learn from edits, or None if it does."""
        stuck = self.not_alive()
        if self._stopping:
            return "stopping" if stuck is None else f"stopping, but {stuck}"
        if stuck is not None:
            return stuck  # what the loop waited for is old by now
        if self._waiting_for:
            return f"waiting for: {', '.join(self._waiting_for)}"
        return None
