"""The journal of attempts: which steps have begun and were never seen to end, and which events ended the process.

A step can end the process (an assertion on the device, a kernel's bug), or never end, so that the watchdog ends the
process. The next owner of the partition replays the same events. So it must find out that they were tried already:

* Each partition has a *mark*, `tried_below`. No step begins with an event at the mark or above before the mark was
  raised, durably. It is raised by 1,000 records at once: as a rule a step writes nothing.
* An event below the mark that a tenure found at its beginning may have been in a step that never ended. Before each
  step with such an event its number of tries is raised, durably. After the step the number is removed.

So the first crash is not counted, only looked out for. From then on `caution` names how carefully an event is tried.
With `learning.max_crashes` = n, an event that always ends the process is a dead letter after n + 3 lives: one that is
not counted, n with others in the step, one with its user alone, one all alone. Its id is remembered then, as a hash
under the identity secret, which names neither the event nor the user. So the event is recognised, and ends nothing,
where it is delivered again. An erasure leaves the hash, as it leaves those in the user's state: see `event_ids`.

The journal keeps two things more that the partition's next owner has to know: which dead letters are acknowledged, and
whether the partition's reading is paused.

A partition whose journal can't be saved or reached waits alone: see `attempt_saves`.

The journal needs neither a clock nor a clean end, and nobody has to know who is alive: it belongs to the partition. A
daemon that has lost a partition, and does not know it yet, may overwrite it once. That costs one more life; or, if it
overwrites a crashed event or a pause, as many lives or dead letters again as the first time.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from enum import IntEnum
from functools import partial

import structlog

from corlld.durable import Attempts
from corlld.errors import AttemptsUnreadable, RetriableError
from corlld.loop.attempt_saves import AttemptSaves
from corlld.loop.jobs import Jobs, Task, Timed, Unless
from corlld.loop.partition_notes import PartitionNotes
from corlld.protocols import AttemptStore
from corlld.records import Arrival, Record, Stage, Tenure

log = structlog.get_logger("corlld.attempts")

LETTERS_EVERY_SECONDS = 5.0


class Caution(IntEnum):
    """How carefully an event is tried."""

    NONE = 0
    AFTER_OTHERS = 1  # together with other such events
    USER_ALONE = 2
    EVENT_ALONE = 3
    NEVER = 4  # it ended the process alone too


class AttemptJournal:
    """The attempts of all live tenures. Called from the loop's thread; it loads and saves in the pool.

    Args:
        pool: runs the calls of the store.
        max_crashes: how many counted tries end before users are tried alone.
    """

    def __init__(self, store: AttemptStore, jobs: Jobs, pool: Executor, max_crashes: int) -> None:
        self._store = store
        self._jobs = jobs
        self._pool = pool
        self._max_crashes = max_crashes
        self._notes: dict[Tenure, PartitionNotes] = {}
        self._loading: dict[Tenure, set[int]] = {}  # with the offsets whose steps have ended meanwhile
        self._out_of_reach: set[Tenure] = set()  # of these: the last try to load failed
        self._saves = AttemptSaves(store, jobs, pool)
        self._next_letters = 0.0

    # --- tenures ------------------------------------------------------------------------------------------------------

    @property
    def loading(self) -> Collection[Tenure]:
        """Return the new tenures whose attempts are not known yet: none of their records may be admitted."""
        return self._loading.keys()

    @property
    def held(self) -> Collection[Tenure]:
        """Return the tenures whose attempts can't be saved or reached: none of their events may be tried for now."""
        unsaved = (tenure for tenure in self._notes if self._saves.is_held(tenure.partition))
        return {*self._out_of_reach, *unsaved}

    @property
    def saving(self) -> bool:
        """True while what is noted is being saved. What can't be saved is not waited for."""
        return self._saves.under_way

    def begin(self, tenure: Tenure, then: Callable[[Tenure, bool], None]) -> None:
        """Begin to load what the partition's owners before have tried.

        `then` is called once that is known, unless the tenure has ended before: with the tenure, and with True if the
        owner before had paused the partition's reading.
        """
        self._loading[tenure] = set()

        def loaded(found: Timed[Attempts | None]) -> None:
            self._begin_with(tenure, found.result or Attempts(), then)

        def unreadable(error: AttemptsUnreadable) -> None:
            log.error("attempts_unreadable", partition=tenure.partition.partition, problem=str(error))
            self._begin_with(tenure, Attempts(), then)

        def failed(error: RetriableError) -> None:
            if tenure in self._loading and tenure not in self._out_of_reach:
                self._out_of_reach.add(tenure)
                problem = f"attempts can't be reached: {error}"
                log.warning("partition_paused", partition=tenure.partition.partition, problem=problem)

        self._jobs.until_done(
            Task(Stage.STATE, tenure),
            lambda: self._load(tenure),
            loaded,
            unless=Unless(AttemptsUnreadable, unreadable),
            failed=failed,
        )

    def _load(self, tenure: Tenure) -> "Future[Timed[Attempts | None]] | None":
        if tenure not in self._loading:  # it has ended since the last try
            return None
        return self._pool.submit(self._jobs.timed(self._store.load_attempts), tenure.partition.key)

    def end(self, tenure: Tenure) -> None:
        """Forget the tenure. What is stored stays: the partition's next owner looks out for it."""
        self._loading.pop(tenure, None)
        self._out_of_reach.discard(tenure)
        if self._notes.pop(tenure, None) is not None:
            self._saves.end(tenure.partition)

    def note_pause(self, tenure: Tenure, *, paused: bool) -> None:
        """Note that the partition's reading is paused, or is not any more, and begin to save it."""
        if (notes := self._notes.get(tenure)) is not None and notes.paused != paused:
            notes.paused, notes.changed = paused, True
            self._save_if_changed()

    def _begin_with(self, tenure: Tenure, stored: Attempts, then: Callable[[Tenure, bool], None]) -> None:
        ended = self._loading.pop(tenure, None)
        if ended is None:
            return  # the tenure has ended meanwhile
        if tenure in self._out_of_reach:
            self._out_of_reach.discard(tenure)
            log.info("partition_resumed", partition=tenure.partition.partition)
        notes = self._notes[tenure] = PartitionNotes.of(tenure, stored, ended)
        self._saves.begin(tenure.partition, notes)
        then(tenure, notes.paused)
        self._save_if_changed()
        if tries := notes.tries:
            partition, most = tenure.partition.partition, max(tries.values())
            log.warning("steps_never_ended", partition=partition, events=len(tries), most_tries=most)

    # --- steps --------------------------------------------------------------------------------------------------------

    @property
    def doubts(self) -> bool:
        """True if any event was tried in a step that was not seen to end."""
        return any(notes.tries for notes in self._notes.values())

    def caution(self, record: Record) -> Caution:
        """Return how carefully the record's event must be tried."""
        notes = self._notes.get(record.tenure)
        tries = notes.tries.get(record.offset, 0) if notes is not None else 0
        if tries < self._max_crashes:
            return Caution.AFTER_OTHERS if tries else Caution.NONE
        return Caution(min(Caution.USER_ALONE + tries - self._max_crashes, Caution.NEVER))

    def ended_the_process(self, record: Record, event_hash: Callable[[], bytes]) -> bool:
        """Return whether the record's event ended the process too often: at this offset, or at another one.

        An event that is found so by its offset is remembered by the hash of its id, in case it is delivered again.

        Args:
            record: has an edit.
            event_hash: returns the hash. Called only if it is needed.
        """
        notes = self._notes.get(record.tenure)
        if notes is not None and self.caution(record) is Caution.NEVER:
            notes.remember_crashed(event_hash())
            return True
        return notes is not None and bool(notes.crashed) and event_hash() in notes.crashed

    def try_again(self, record: Record, event_hash: bytes) -> None:
        """Forget that the record's event ended the process at another offset, and begin to save that."""
        if (notes := self._notes.get(record.tenure)) is not None and event_hash in notes.crashed:
            notes.forget_crashed(event_hash)
            self._save_if_changed()

    def trying(self, step: Mapping[str, Sequence[Arrival]], then: Callable[[Collection[str]], None]) -> None:
        """Note that a step begins.

        Args:
            step: the arrivals by user.
            then: called with the users whose events may be tried, as soon as that is known: at once if nothing has to
                be saved. For each of them it is durable that they are tried. A user is left out if a save failed for
                the partition of any event: the step must begin without these events, and none of them is counted.
        """
        held = self.held
        begins = {
            uid: [arrival.record for arrival in arrivals]
            for uid, arrivals in step.items()
            if all(a.record.tenure in self._notes and a.record.tenure not in held for a in arrivals)
        }
        unsaved = {
            each.tenure for records in begins.values() for each in records if self._notes[each.tenure].trying(each)
        }
        failed: set[Tenure] = set()
        left = set(unsaved)

        def saved(tenure: Tenure, durable: bool) -> None:
            left.discard(tenure)
            if not durable:
                failed.add(tenure)
            if not left:
                then(self._without(begins, failed))

        if not unsaved:
            then(begins.keys())
        for tenure in unsaved:
            self._saves.save(tenure.partition, partial(saved, tenure))

    def _without(self, begins: Mapping[str, Sequence[Record]], failed: Collection[Tenure]) -> Collection[str]:
        """Return the users without events of these tenures. What was counted for the others is taken back."""
        kept = []
        for uid, records in begins.items():
            if not any(record.tenure in failed for record in records):
                kept.append(uid)
                continue
            for record in records:
                if (notes := self._notes.get(record.tenure)) is not None:
                    notes.not_tried(record)
        if len(kept) < len(begins):
            self._save_if_changed()
        return kept

    def tried(self, arrivals: Iterable[Arrival]) -> None:
        """Note that the step with these arrivals has ended, and begin to save it.

        A step may outlive its tenure: the next one of the partition in this process must not take it for a crash.
        """
        live = {tenure.partition.key: notes for tenure, notes in self._notes.items()}
        loading = {tenure.partition.key: ended for tenure, ended in self._loading.items()}
        for record in (arrival.record for arrival in arrivals):
            key = record.tenure.partition.key
            if key in loading:
                loading[key].add(record.offset)
            elif (notes := live.get(key)) is not None and notes.tries.pop(record.offset, 0):
                notes.changed = True
        self._save_if_changed()

    # --- dead letters -------------------------------------------------------------------------------------------------

    def is_set_aside(self, record: Record) -> bool:
        """Return whether the record's dead letter was acknowledged in an earlier life: it needs no other one."""
        notes = self._notes.get(record.tenure)
        return notes is not None and record.offset in notes.letters

    def acknowledged(self, record: Record) -> None:
        """Note that the record's dead letter is acknowledged."""
        if (notes := self._notes.get(record.tenure)) is not None:
            notes.acknowledged(record.offset)

    def save_letters(self, now: float, committed: Mapping[Tenure, int]) -> None:
        """Begin to save acknowledged letters, if it is time and there are any. Forget what is committed.

        The commit that passes letters is saved with them gone: a group that is set back before it gets them anew.

        Args:
            now: monotonic seconds; infinite at a stop, when it is always time.
            committed: the offset by live tenure; at a stop, the one that is committed last.
        """
        for tenure, notes in self._notes.items():
            notes.committed = max(notes.committed, committed.get(tenure, 0))
            if notes.tries:
                notes.tries = {offset: count for offset, count in notes.tries.items() if offset >= notes.committed}
        if now < self._next_letters or not any(notes.letters for notes in self._notes.values()):
            return
        self._next_letters = now + LETTERS_EVERY_SECONDS
        for notes in self._notes.values():
            notes.forget_committed_letters()
        self._save_if_changed()

    # --- saving -------------------------------------------------------------------------------------------------------

    def when_durable(self, tenure: Tenure, then: Callable[[], None]) -> None:
        """Call `then` once what is noted of the tenure now is durable: at once if it is, never if the tenure ends."""
        if tenure not in self._notes:
            return
        if self._saves.is_durable(tenure.partition):
            then()
            return

        def saved(durable: bool) -> None:
            if tenure not in self._notes:
                return
            if durable:
                then()
            else:
                self._saves.save(tenure.partition, saved)  # with the next try

        self._saves.save(tenure.partition, saved)

    def _save_if_changed(self) -> None:
        for tenure, notes in self._notes.items():
            if notes.changed:
                self._saves.save(tenure.partition)
