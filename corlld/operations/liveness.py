"""Judge whether the daemon makes progress, for `/livez` and for a watchdog. Pure: the time is an argument."""

from corlld.records import LoopStatus


class Liveness:
    """Distinguishes a stuck loop, trainer or store from a slow one.

    Before the loop begins it judges nothing: the start has deadlines of its own. The loop's thread writes; any thread
    may read.

    Args:
        stall_after_seconds: longest pause of the loop, longest time without progress in a call of the learner, and
            longest call of the state store or the publisher.
    """

    def __init__(self, stall_after_seconds: float) -> None:
        self._stall_after_seconds = stall_after_seconds
        self._last: LoopStatus | None = None
        self._moved_at: float | None = None  # the loop
        self._trainer_moved_at = 0.0

    def begins(self, now: float) -> None:
        """Record that the loop begins: its first turn may be the one that never ends."""
        self._moved_at = now

    def turned(self, status: LoopStatus) -> None:
        """Record that the loop turned."""
        last = self._last
        # The trainer is not stuck if it is idle, has just begun, or has made progress since the last turn.
        if last is None or not (status.training and last.training) or status.trainer_progress != last.trainer_progress:
            self._trainer_moved_at = status.now
        self._last, self._moved_at = status, status.now

    def problem(self, now: float) -> str | None:
        """Return a sentence that says what is stuck, or None. `now`: seconds on the daemon's monotonic clock."""
        limit, last, moved_at = self._stall_after_seconds, self._last, self._moved_at
        if moved_at is not None and (pause := now - moved_at) > limit:
            return f"the loop has not turned for {pause:.0f} s"
        if last is None:
            return None
        if last.training and (pause := now - self._trainer_moved_at) > limit:
            return f"the trainer has made no progress for {pause:.0f} s"
        if (pause := last.longest_call_seconds) > limit:
            return f"a call of the state store or the publisher has not returned for {pause:.0f} s"
        return None
