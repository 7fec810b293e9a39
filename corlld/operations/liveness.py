"""Whether the daemon makes progress: what `/livez` says and what a watchdog is fed by. Pure."""

from corlld.records import LoopStatus


class Liveness:
    """A stuck loop or a stuck trainer, told from a slow one.

    Before the first turn nothing is judged: the start ends by its own deadlines. Written by the loop's thread, read by
    any.

    Args:
        stall_after_seconds: longest pause of the loop, or of the trainer inside a call of the learner.
    """

    def __init__(self, stall_after_seconds: float) -> None:
        self._stall_after_seconds = stall_after_seconds
        self._last: LoopStatus | None = None
        self._trainer_moved_at = 0.0

    def turned(self, status: LoopStatus) -> None:
        """The loop turned."""
        last = self._last
        # Idle, at work since now, or with something done since: the trainer is not stuck.
        if last is None or not (status.training and last.training) or status.trainer_progress != last.trainer_progress:
            self._trainer_moved_at = status.now
        self._last = status

    def problem(self, now: float) -> str | None:
        """What is stuck, as a sentence; None where all goes on. `now`: seconds on the daemon's monotonic clock."""
        last = self._last
        if last is None:
            return None
        if (pause := now - last.now) > self._stall_after_seconds:
            return f"the loop has not turned for {pause:.0f} s"
        if last.training and (pause := now - self._trainer_moved_at) > self._stall_after_seconds:
            return f"the trainer has made no progress for {pause:.0f} s"
        return None
