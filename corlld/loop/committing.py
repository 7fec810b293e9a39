"""Commits offsets as they come due. First it has users noted whose announcement is not acknowledged yet.

The offsets of an edit make it come again after a crash, and with it the announcement of its version. Once they are
committed only a note does. Announcements are acknowledged in milliseconds, so there is seldom anything to note.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor

import structlog

from corlld.errors import RetriableError
from corlld.loop.jobs import Jobs, Task
from corlld.loop.offsets import LowWatermarks
from corlld.observer import Observer
from corlld.protocols import Publisher, Source
from corlld.records import Stage, Tenure

log = structlog.get_logger("corlld.daemon")

COMMIT_EVERY_SECONDS = 1.0


class Committer:
    """Commits low watermarks. One note and one commit are under way at a time.

    Args:
        pool: runs the calls of the publisher.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        source: Source,
        watermarks: LowWatermarks,
        publisher: Publisher,
        jobs: Jobs,
        pool: Executor,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._watermarks = watermarks
        self._publisher = publisher
        self._jobs = jobs
        self._pool = pool
        self._observer = observer
        self._clock = clock
        self._next_commit = 0.0
        self._noting = False
        self._cannot_note = False  # the last try failed

    def commit_due(self, now: float) -> None:
        """Begin a commit if one is due and anything has moved.

        While a note can't be written, partitions without users that it would name are committed all the same.
        """
        if now < self._next_commit or (self._noting and not self._cannot_note):
            return
        known = self._source.committed()
        behind = {t: offset for t, offset in self._committable().items() if offset != known.get(t)}
        if not behind:
            return
        if self._noting:
            self._commit(self._without_unnoted(behind))
        elif self._publisher.must_note:
            self._note_and_commit(behind)
        else:
            self._commit(behind)

    def committable_at_the_end(self) -> Mapping[Tenure, int]:
        """Return the offsets for the last commit: all that may be committed.

        If a note can't be written, those of partitions with users that it would name are left out.

        To be called once the publisher is closed. Waits for the store.
        """
        offsets = self._committable()
        if self._publisher.must_note:
            try:
                self._publisher.note_unannounced()
            except RetriableError as error:
                left = self._without_unnoted(offsets)
                log.warning("left_uncommitted", problem=str(error), partitions=len(offsets) - len(left))
                return left
        return offsets

    def _note_and_commit(self, offsets: Mapping[Tenure, int]) -> None:
        def noted(_: None) -> None:
            self._noting = self._cannot_note = False
            # What was published meanwhile is not covered by these offsets. Some may have been committed meanwhile.
            known = self._source.committed()
            live = {t: offset for t, offset in offsets.items() if self._watermarks.is_live(t)}
            self._commit({t: offset for t, offset in live.items() if offset > known.get(t, -1)})

        def failed(error: RetriableError) -> None:
            if not self._cannot_note:
                self._cannot_note = True
                held = sorted({t.partition.partition for t in offsets.keys() - self._without_unnoted(offsets).keys()})
                log.warning("commits_held", partitions=held, problem=f"the outbox can't be written: {error}")

        self._noting = True
        self._jobs.until_done(
            Task(Stage.STATE, "outbox"),
            lambda: self._pool.submit(self._publisher.note_unannounced),
            noted,
            failed=failed,
        )

    def _without_unnoted(self, offsets: Mapping[Tenure, int]) -> Mapping[Tenure, int]:
        """Return those of these offsets in which a commit loses no announcement. They were committable before."""
        unnoted = self._publisher.unnoted_partitions
        return {t: offset for t, offset in offsets.items() if t.partition.key not in unnoted}

    def _commit(self, offsets: Mapping[Tenure, int]) -> None:
        if offsets and self._source.commit(offsets):
            self._observer.commit_begun()
            self._next_commit = self._clock() + COMMIT_EVERY_SECONDS

    def _committable(self) -> Mapping[Tenure, int]:
        return self._watermarks.committable(self._source.positions())
