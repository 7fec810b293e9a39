"""Pauses a partition while too large a share of its records is invalid, until its newest records are good again.

A wrong producer can fill a topic with records that can't be applied. Setting all of them aside would help nobody, and a
daemon that stopped would hand the partition to the next one, which would stop too. So only this partition waits: what
was read of it stays unfinished, its newest records are looked at from time to time, and reading goes on by itself once
they are good. What was invalid in between becomes dead letters then.

The journal keeps the pause, so that the partition's next owner begins with it, and with a look at the newest records.
Otherwise each owner would set some more records aside before it paused too.

All of it runs in the loop's thread, but the reading of the newest records.
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

import structlog

from corlld.errors import CorlldError, ExitCode, FatalError, InvalidEvent
from corlld.events.decoder import EventDecoder
from corlld.loop.attempts import AttemptJournal
from corlld.loop.jobs import Jobs
from corlld.records import Record, Tenure
from corlld.settings.sections import DeadLetterSettings

log = structlog.get_logger("corlld.poison")

MIN_RECORDS_FOR_SHARE = 100  # the share of invalid records is not judged below this
PROBED_RECORDS = 20  # the newest ones of the partition
FIRST_PROBE_SECONDS = 5.0
LAST_PROBE_SECONDS = 300.0  # each probe that finds poison doubles the pause, up to this

NewestRecords = Callable[[int, int], Sequence[Record]]  # a partition's number and how many records; raises FatalError


@dataclass(slots=True)
class _Partition:
    """A live tenure. Times are on the daemon's clock.

    recent: whether each of the last records was invalid.
    held: records that were read after the pause began, in order. They are not finished.
    probe_at: when the newest records are looked at again; None if reading is not paused.
    judged_from: records before this offset are not judged: it is known that there is poison among them.
    """

    recent: deque[bool]
    held: deque[Record] = field(default_factory=deque)
    probe_at: float | None = None
    pause_seconds: float = FIRST_PROBE_SECONDS
    judged_from: int = 0


class Poison:
    """Judges the share of invalid records, partition by partition.

    Args:
        settings: the largest share, and over how many records.
        decoder: decodes the newest records.
        newest: reads the newest records, in the pool; None if the input ends: no better records will come.
        jobs: brings the newest records back to the loop.
        pool: reads them.
        journal: keeps the pauses.
    """

    def __init__(
        self,
        settings: DeadLetterSettings,
        decoder: EventDecoder,
        newest: NewestRecords | None,
        jobs: Jobs,
        pool: Executor,
        journal: AttemptJournal,
    ) -> None:
        self._settings = settings
        self._decoder = decoder
        self._newest = newest
        self._jobs = jobs
        self._pool = pool
        self._journal = journal
        self._partitions: dict[Tenure, _Partition] = {}
        self._probing = False  # one at a time: a probe reaches the broker anew

    @property
    def paused(self) -> Collection[Tenure]:
        """Return the tenures whose reading is paused."""
        return [tenure for tenure, partition in self._partitions.items() if partition.probe_at is not None]

    def begin(self, tenure: Tenure, paused: bool) -> None:
        """Begin to judge a tenure.

        Args:
            tenure: none of its records was judged yet.
            paused: the owner before had paused the partition. If so, its newest records are looked at as soon as
                possible. An input that ends is never paused.
        """
        partition = self._partitions[tenure] = _Partition(deque(maxlen=self._settings.share_window))
        if paused and self._newest is not None:
            log.warning("partition_still_paused", partition=tenure.partition.partition)
            partition.probe_at = -math.inf

    def end(self, tenure: Tenure) -> None:
        """Forget the tenure and what is held of it: the partition's next owner reads it again."""
        self._partitions.pop(tenure, None)

    def holds(self, record: Record) -> bool:
        """Return whether the record has to wait. If so, it is kept until `released` returns it."""
        partition = self._partitions[record.tenure]
        if waits := partition.probe_at is not None:
            partition.held.append(record)
        return waits

    def released(self) -> list[Record]:
        """Return records that waited and need not wait any more, in order. Each is returned once."""
        records: list[Record] = []
        for partition in self._partitions.values():
            if partition.probe_at is None and partition.held:
                records.extend(partition.held)
                partition.held.clear()
        return records

    def judge(self, record: Record, now: float, *, invalid: bool) -> None:
        """Count a record, and pause its partition if too large a share of the recent ones is invalid.

        Raises FatalError in place of a pause if the input ends.
        """
        partition = self._partitions[record.tenure]
        if record.offset < partition.judged_from:
            return
        recent = partition.recent
        recent.append(invalid)
        share = sum(recent) / len(recent)
        enough = len(recent) >= min(MIN_RECORDS_FOR_SHARE, self._settings.share_window)
        if not (invalid and enough and share > self._settings.max_share):
            return
        problem = (
            f"{share:.0%} of the last {len(recent)} records are invalid, more than dead_letters.max_share = "
            f"{self._settings.max_share:.0%}: the wrong input, or a producer's bug? "
            "The dead letters name the reasons; with a higher max_share the daemon continues"
        )
        if self._newest is None:
            raise FatalError(problem, ExitCode.DATA)
        log.error("partition_paused", partition=record.tenure.partition.partition, problem=problem)
        recent.clear()
        partition.probe_at = now + partition.pause_seconds
        self._journal.note_pause(record.tenure, paused=True)

    def probe(self, now: float, ends: Callable[[], Mapping[Tenure, int]]) -> None:
        """Begin to look at the newest records of a paused partition that is due.

        Args:
            now: seconds on the daemon's monotonic clock.
            ends: the ends of the input, as `Source.ends`.
        """
        if self._newest is None or self._probing:
            return
        for tenure, partition in self._partitions.items():
            if partition.probe_at is not None and partition.probe_at <= now:
                self._probing = True
                number = tenure.partition.partition

                def probed(
                    future: "Future[Sequence[Record]]", tenure: Tenure = tenure, partition: _Partition = partition
                ) -> None:
                    self._probing = False
                    self._conclude(tenure, partition, future, now, ends)

                self._jobs.submit(self._pool, probed, self._newest, number, PROBED_RECORDS)
                return

    def _conclude(
        self,
        tenure: Tenure,
        partition: _Partition,
        probe: "Future[Sequence[Record]]",
        now: float,
        ends: Callable[[], Mapping[Tenure, int]],
    ) -> None:
        error = probe.exception()
        if isinstance(error, CorlldError):  # the broker is away, say
            log.warning("probe_failed", partition=tenure.partition.partition, problem=str(error))
            good = False
        else:
            # A group that was moved behind the poison, or whose poison has expired, has nothing bad left to read.
            nothing_left = ends().get(tenure, math.inf) <= tenure.start_offset
            good = nothing_left or self._is_good(probe.result())
        if not good:
            partition.pause_seconds = min(2 * partition.pause_seconds, LAST_PROBE_SECONDS)
            partition.probe_at = now + partition.pause_seconds
            return
        log.info("partition_resumed", partition=tenure.partition.partition)
        partition.probe_at, partition.pause_seconds = None, FIRST_PROBE_SECONDS
        partition.judged_from = ends().get(tenure, 0)
        self._journal.note_pause(tenure, paused=False)

    def _is_good(self, records: Sequence[Record]) -> bool:
        """Return whether few enough of the records are invalid."""
        invalid = 0
        for record in records:
            try:
                self._decoder.decode(record.key, record.value, record.headers)
            except InvalidEvent:
                invalid += 1
        return bool(records) and invalid <= self._settings.max_share * len(records)
