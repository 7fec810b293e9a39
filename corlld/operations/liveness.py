"""Judge whether the daemon makes progress, for `/livez` and for a watchdog. Pure: the time is an argument."""

from corlld.records import LoopStatus


class Liveness:
    """Distinguishes a stuck loop or a stuck trainer from a slow one.

    Before the first turn it judges nothing: the start has deadlines of its own. The loop's thread writes; any thread
    may read.

    Args:
        stall_after_seconds: longest pause of the loop, and longest time without progress in a call of the learner.
    """

    def __init__(self, stall_after_seconds: float) -> None:
        self._stall_after_seconds = stall_after_seconds
        self._last: LoopStatus | None = None
        self._trainer_moved_at = 0.0

    def turned(self, status: LoopStatus) -> None:
        """Record that the loop turned."""
        last = self._last
        # The trainer is not stuck if it is idle, has just begun, or has made progress since the last turn.
        if last is None or not (status.training and last.training) or status.trainer_progress != last.trainer_progress:
            self._trainer_moved_at = status.now
        self._last = status

    def problem(self, now: float) -> str | None:
        """Return a sentence that says what is stuck, or None. `now`: seconds on the daemon's monotonic clock."""
        last = self._last
        if last is None:
            return None
        if (pause := now - last.now) > self._stall_after_seconds:
            return f"the loop has not turned for {pause:.0f} s"
        if last.training and (pause := now - self._trainer_moved_at) > self._stall_after_seconds:
            return f"the trainer has made no progress for {pause:.0f} s"
        return None
