"""Saves the notes on each partition: one save at a time for each, and no partition waits for another one's.

A save that fails is tried again for as long as the partition has a live tenure here. Until it works the partition is
*held*: its reading is paused and none of its events may be tried, since a step must be noted before it begins. The
other partitions go on.

It does not know what the notes say.
"""

from collections.abc import Callable
from concurrent.futures import Executor, Future

import structlog

from corlld.errors import RetriableError
from corlld.loop.jobs import Jobs, Task, Timed
from corlld.loop.partition_notes import PartitionNotes
from corlld.protocols import AttemptStore
from corlld.records import SourcePartition, Stage

log = structlog.get_logger("corlld.attempts")

Answer = Callable[[bool], None]  # is given True once what was noted is durable; False if it is not known to be


class AttemptSaves:
    """The saves of all partitions. Called from the loop's thread; it saves in the pool.

    Args:
        store: keeps what is saved.
        jobs: repeats saves that fail.
        pool: runs the calls of the store.
    """

    def __init__(self, store: AttemptStore, jobs: Jobs, pool: Executor) -> None:
        self._store = store
        self._jobs = jobs
        self._pool = pool
        self._live: dict[SourcePartition, PartitionNotes] = {}
        self._under_way: set[SourcePartition] = set()  # a save runs, or is to be tried again
        self._failing: set[SourcePartition] = set()  # of these: the last try failed
        self._asked: dict[SourcePartition, list[Answer]] = {}  # the next try answers them

    @property
    def under_way(self) -> bool:
        """True if a save is under way that has not failed. Waiting for one that has may take for ever."""
        return bool(self._under_way - self._failing)

    def is_durable(self, partition: SourcePartition) -> bool:
        """Return whether all that is noted of the live partition is saved."""
        return partition not in self._under_way and not self._live[partition].changed

    def is_held(self, partition: SourcePartition) -> bool:
        """Return whether the last save of the partition failed: none of its events may be tried."""
        return partition in self._failing

    def begin(self, partition: SourcePartition, notes: PartitionNotes) -> None:
        """Save these notes from now on, whenever `save` is called."""
        self._live[partition] = notes

    def end(self, partition: SourcePartition) -> None:
        """Save nothing more of the partition: its notes belong to the next owner. Who waits is given False."""
        self._live.pop(partition, None)
        self._answer(self._asked.pop(partition, []), durable=False)

    def save(self, partition: SourcePartition, answer: Answer | None = None) -> None:
        """Begin to save what is noted of a live partition now.

        `answer`, if given, is called once, after the first try that begins later than this call. It is called if that
        try fails, and if one fails that began earlier: nobody shall wait for a partition that can't be saved.
        """
        if answer is not None:
            self._asked.setdefault(partition, []).append(answer)
        if partition not in self._under_way:
            self._under_way.add(partition)
            self._try(partition)

    def _try(self, partition: SourcePartition) -> None:
        answers: list[Answer] = []

        def begin() -> "Future[Timed[None]] | None":
            nonlocal answers
            answers = self._asked.pop(partition, [])
            if (notes := self._live.get(partition)) is None:  # the tenure has ended since the last try
                self._under_way.discard(partition)
                self._failing.discard(partition)
                self._answer(answers, durable=False)
                return None
            notes.changed = False
            return self._pool.submit(self._jobs.timed(self._store.save_attempts), partition.key, notes.content())

        def failed(error: RetriableError) -> None:
            if (notes := self._live.get(partition)) is not None:
                notes.changed = True
                if partition not in self._failing:
                    problem = f"attempts can't be saved: {error}"
                    log.warning("partition_paused", partition=partition.partition, problem=problem)
            self._failing.add(partition)  # also if the tenure has ended: the next one must not wait for the next try
            self._answer([*answers, *self._asked.pop(partition, [])], durable=False)

        self._jobs.until_done(
            Task(Stage.STATE, ("attempts", partition.key)),
            begin,
            lambda _: self._saved(partition, answers),
            failed=failed,
        )

    def _saved(self, partition: SourcePartition, answers: list[Answer]) -> None:
        self._under_way.discard(partition)
        if partition in self._failing:
            self._failing.discard(partition)
            if partition in self._live:
                log.info("partition_resumed", partition=partition.partition)
        self._answer(answers, durable=True)
        notes = self._live.get(partition)
        if partition not in self._under_way and notes is not None and (notes.changed or partition in self._asked):
            self.save(partition)

    def _answer(self, answers: list[Answer], *, durable: bool) -> None:
        for answer in answers:
            answer(durable)
