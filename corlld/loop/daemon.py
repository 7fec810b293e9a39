"""The loop, which alone decides the order of stages. Durable, then visible, then committed.

One thread owns the source and runs everything in this module. One thread trains. A small pool loads, stores and
publishes. Workers return values through futures whose handlers run in the loop, so nothing here is shared between
threads.
"""

import contextlib
import math
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

import structlog

from corlld.errors import FatalError
from corlld.events.decoder import EventDecoder
from corlld.events.pseudonyms import Pseudonyms
from corlld.loop.attempts import AttemptJournal
from corlld.loop.batching import Batcher
from corlld.loop.claims import Claims
from corlld.loop.committing import Committer
from corlld.loop.durability import Durability
from corlld.loop.enrolment import Enrolment
from corlld.loop.event_ids import EventIds
from corlld.loop.intake import Intake
from corlld.loop.jobs import Jobs
from corlld.loop.offsets import LowWatermarks
from corlld.loop.poison import NewestRecords, Poison
from corlld.loop.set_aside import UserTroubles
from corlld.loop.stages import Stages
from corlld.loop.store_breaker import StoreBreaker
from corlld.observer import Observer
from corlld.protocols import AttemptStore, DeadLetters, Learner, Publisher, Source, StateStore
from corlld.records import LoopStatus, PartitionStatus, Record, Stage, Tenure
from corlld.settings.sections import Settings

log = structlog.get_logger("corlld.daemon")

BUSY_POLL_SECONDS = 0.02  # while work is under way, since its completions are handled between polls
IDLE_POLL_SECONDS = 0.25
STATUS_EVERY_SECONDS = 1.0
LEAST_CLOSE_SECONDS = 1.0  # per part, even if a stop has used up its time


class Daemon:
    """Reads, batches, trains, stores, publishes and commits, until it is stopped or the input ends.

    Args:
        settings: the loop reads batching, dead_letters, operations, publishing, snapshot and state, and of learning
            `max_crashes`.
        source: must be started.
        store: must be opened.
        attempts: keeps beside the states what was tried.
        newest_records: returns a partition's last records; None if the input ends, so that nothing newer will come.
        observer: what happens is reported to it; None: to nobody.
        clock: monotonic seconds.
        wall_clock: unix time.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        source: Source,
        decoder: EventDecoder,
        dead_letters: DeadLetters,
        pseudonyms: Pseudonyms,
        learner: Learner,
        store: StateStore,
        attempts: AttemptStore,
        publisher: Publisher,
        newest_records: NewestRecords | None = None,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._source = source
        self._dead_letters = dead_letters
        self._learner = learner
        self._publisher = publisher
        self._observer = observer or Observer()
        self._clock = clock
        self._jobs = Jobs(settings.operations.retry_max_seconds, clock, self._observer)
        self._watermarks = LowWatermarks()
        self._batcher = Batcher(settings.batching)
        self._trainer = ThreadPoolExecutor(1, "trainer")
        self._pool = ThreadPoolExecutor(settings.publishing.threads, "store")
        self._journal = AttemptJournal(attempts, self._jobs, self._pool, settings.learning.max_crashes)
        self._poison = Poison(settings.dead_letters, decoder, newest_records, self._jobs, self._pool, self._journal)
        self._intake = Intake(
            decoder,
            pseudonyms,
            dead_letters,
            self._watermarks,
            self._journal,
            self._poison,
            self._observer,
            self._jobs,
        )
        self._troubles = UserTroubles(settings.state, clock)
        self._claims = self._make_claims(store, pseudonyms, wall_clock)
        self._committer = Committer(source, self._watermarks, publisher, self._jobs, self._pool, self._observer, clock)
        self._held: list[Record] = []  # of tenures whose attempts are being loaded
        self._next_status = -math.inf
        self._reading_paused = False
        self._stop = False
        self._read_from_beginning = False
        self.abandoned = False  # a stop ran out of time with a job still under way

    def _make_claims(self, store: StateStore, pseudonyms: Pseudonyms, wall_clock: Callable[[], float]) -> Claims:
        settings, observer, clock = self._settings, self._observer, self._clock
        durability = Durability(
            self._jobs,
            self._pool,
            store,
            StoreBreaker(store, settings.state.max_unreadable_share, clock),
            self._troubles,
            self._publisher,
            observer,
            publishing=settings.publishing.enabled,
        )
        remembered = settings.state
        stages = Stages(
            settings,
            self._learner.model_info.module_names,
            self._batcher,
            self._watermarks,
            self._intake,
            durability,
            EventIds(pseudonyms.event_id_hash, remembered.recent_event_ids, remembered.older_event_ids),
            Enrolment(settings, wall_clock),
            observer,
            clock,
        )
        return Claims(
            settings,
            stages,
            self._batcher,
            self._jobs,
            self._trainer,
            self._learner,
            self._journal,
            observer,
            clock,
        )

    # --- life ---------------------------------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """Ask the loop to stop. Only sets a flag, so it is safe in a signal handler."""
        self._stop = True

    @property
    def waiting_for(self) -> list[Stage]:
        """The stages that keep the daemon from being ready; empty if it is ready."""
        waiting = set(self._jobs.failing_stages)
        if not self._source.healthy:
            waiting.add(Stage.INPUT)
        if self._dead_letters.problem is not None:
            waiting.add(Stage.DEAD_LETTERS)
        if self._publisher.problem is not None:
            waiting.add(Stage.PUBLISHING)
        waiting.update(stage for stage, tenures in self._paused_partitions().items() if tenures)
        return [stage for stage in Stage if stage in waiting]

    def run(self) -> None:
        """Run until stopped, or until the input has ended and all of it is finished. To be called once.

        Raises FatalError; any other exception is a bug. In both cases nothing unfinished is committed.
        """
        deadline: float | None = None
        try:
            self._observer.loop_begins(self._clock())
            while not self._stop and not self._input_is_finished():
                self._turn()
            deadline = self._clock() + self._settings.operations.shutdown_timeout_seconds
            self._drain(deadline)
        except BaseException:
            # The running step is awaited below. The stop is reported first: a supervisor that took the wait for a stuck
            # loop would end the daemon with another exit code, and before the reason is logged.
            with contextlib.suppress(FatalError):
                self._report_stop()
            raise
        finally:
            for executor in (self._trainer, self._pool):
                executor.shutdown(wait=not self.abandoned, cancel_futures=True)
            self._close(deadline or self._clock() + self._settings.operations.shutdown_timeout_seconds)

    def refuse_if_nothing_was_valid(self) -> None:
        """Judge an input that ended. To be called after `run`.

        Raises FatalError if the whole input was read, from its beginning on, and held no valid event.
        """
        if self._read_from_beginning and self._input_is_finished():
            self._intake.refuse_if_nothing_was_valid()

    def _turn(self) -> None:
        now = self._clock()
        due = self._batcher.next_due_seconds(now)
        idle = IDLE_POLL_SECONDS if due is None else min(due, IDLE_POLL_SECONDS)
        busy = self._claims or self._intake.pending or self._journal.loading or self._journal.held
        polled = self._source.poll(BUSY_POLL_SECONDS if busy else idle)
        for tenure in polled.ended:
            self._end_tenure(tenure)
        for tenure in polled.begun:
            log.info("partition_assigned", partition=tenure.partition.partition, start_offset=tenure.start_offset)
            self._watermarks.begin(tenure)
            self._journal.begin(tenure, self._poison.begin)
            self._read_from_beginning = tenure.start_offset == 0
        now = self._clock()
        # All records start before the first is admitted: the source's positions are past the whole poll already, and if
        # the loop ends in the middle, none of the rest may be committed.
        for record in polled.records:
            self._watermarks.start(record, now)
        if polled.records:
            self._observer.read(len(polled.records))
        self._held.extend((*self._poison.released(), *polled.records))
        self._admit(now)
        self._batcher.draining = self._source.exhausted
        self._jobs.handle_completions()
        self._jobs.run_due_retries(now)
        self._claims.store_due(now)
        self._claims.claim_users(now)
        self._claims.start_step()
        self._claims.load_ahead()
        self._poison.probe(now, self._source.ends)
        self._pause_reading()
        self._journal.save_letters(now, self._source.committed())
        self._committer.commit_due(now)
        self._report_status(stopping=False)

    def _admit(self, now: float) -> None:
        """Admit what was read, unless it is not known yet what was tried of it before."""
        records, self._held = self._held, []
        for record in records:
            if record.tenure in self._journal.loading:
                self._held.append(record)
            elif not self._poison.holds(record) and (arrival := self._intake.admit(record, now)) is not None:
                self._observer.admitted(arrival)
                self._batcher.add(arrival)
                self._claims.expect(arrival)

    def _pause_reading(self) -> None:
        """Pause all partitions while the buffers are full; else those that are paused each for its own reason."""
        if self._batcher.full or self._intake.full:
            self._reading_paused = True
        elif self._batcher.has_room:
            self._reading_paused = False
        if self._reading_paused:
            self._source.pause_only(self._source.positions())
        else:
            paused = self._paused_partitions().values()
            self._source.pause_only([*self._journal.loading, *(tenure for tenures in paused for tenure in tenures)])

    def _paused_partitions(self) -> dict[Stage, Collection[Tenure]]:
        """Return the tenures whose reading is paused for themselves, by what they wait for."""
        return {
            Stage.STATE: self._journal.held,
            Stage.VALID_RECORDS: self._poison.paused,
            Stage.LOW_WATERMARK: self._watermarks.held_up(self._settings.batching.max_finished_ahead),
        }

    def _input_is_finished(self) -> bool:
        return self._source.exhausted and not self._watermarks.unfinished

    def _end_tenure(self, tenure: Tenure) -> None:
        log.info("partition_ended", partition=tenure.partition.partition)
        self._watermarks.end(tenure)
        self._journal.end(tenure)
        self._held = [record for record in self._held if record.tenure != tenure]
        self._poison.end(tenure)
        self._troubles.forget()
        self._batcher.drop(tenure)
        self._claims.end_tenure(tenure)

    def _report_status(self, *, stopping: bool) -> None:
        now = self._clock()
        if now < self._next_status:
            return
        self._next_status = now + STATUS_EVERY_SECONDS
        ends, committed = self._source.ends(), self._source.committed()
        tokens = self._learner.tokens
        self._observer.turned(
            LoopStatus(
                now=now,
                waiting_for=tuple(self.waiting_for),
                stopping=stopping,
                buffered_events=self._batcher.events,
                buffered_chars=self._batcher.chars,
                reading_paused=self._reading_paused,
                paused_partitions={stage: len(tenures) for stage, tenures in self._paused_partitions().items()},
                partitions={
                    tenure.partition.partition: PartitionStatus(
                        # Not below 0: the end may be older than the newest commit.
                        max(0, ends[tenure] - committed[tenure]) if tenure in ends and tenure in committed else None,
                        age,
                    )
                    for tenure, age in self._watermarks.ages_seconds(now).items()
                },
                training=self._claims.training,
                trainer_progress=self._learner.progress,
                longest_call_seconds=self._jobs.longest_call_seconds(now),
                computed_tokens=tokens.computed,
                padding_tokens=tokens.padding,
                host_memory_users=self._claims.memory.users,
                host_memory_bytes=self._claims.memory.nbytes,
                unsaved_users=self._claims.unsaved_users,
                unsaved_age_seconds=self._claims.unsaved_age_seconds(now),
                unannounced=self._publisher.unannounced,
                users_aside=self._troubles.aside,
            )
        )

    def _report_stop(self) -> None:
        self._next_status = -math.inf  # at once
        self._report_status(stopping=True)

    def _drain(self, deadline: float) -> None:
        """Finish what has begun, until it is durable and visible. Start nothing new."""
        self._claims.stop()
        self._report_stop()
        self._journal.save_letters(math.inf, self._source.committed())
        if self._await(lambda: self._intake.pending or self._claims.under_way or self._journal.saving, deadline):
            # The last commit passes letters: the journal forgets them before it.
            self._journal.save_letters(math.inf, self._watermarks.committable(self._source.positions()))
            self._await(lambda: self._journal.saving, deadline)

    def _await(self, unfinished: Callable[[], object], deadline: float) -> bool:
        """Return whether all was finished before the deadline. If not, it is abandoned."""
        while unfinished():
            now = self._clock()
            if now >= deadline:
                log.warning("stopped_with_work_under_way", users=len(self._claims))
                self.abandoned = True
                return False
            self._jobs.handle_completions(wait_seconds=BUSY_POLL_SECONDS)
            self._jobs.run_due_retries(now)
            self._claims.store_due(now)
            self._report_status(stopping=True)
        return True

    def _close(self, deadline: float) -> None:
        def left() -> float:
            return max(LEAST_CLOSE_SECONDS, deadline - self._clock())

        self._publisher.close(left())
        self._dead_letters.close(left())
        self._source.close(self._committer.committable_at_the_end(), left())
