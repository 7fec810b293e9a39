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

The journal needs neither a clock nor a clean end, and nobody has to know who is alive: it belongs to the partition. A
daemon that has lost a partition, and does not know it yet, may overwrite it once. That costs one more life; or, if it
overwrites a crashed event or a pause, as many lives or dead letters again as the first time.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor
from enum import IntEnum

import structlog

from corlld.durable import Attempts
from corlld.errors import AttemptsUnreadable
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
        self._waiting: list[Callable[[], None]] = []  # called once what is noted now is durable
        self._next_letters = 0.0
        self.saving = False

    # --- tenures ------------------------------------------------------------------------------------------------------

    @property
    def loading(self) -> Collection[Tenure]:
        """Return the new tenures whose attempts are not known yet: none of their records may be admitted."""
        return self._loading.keys()

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

        self._jobs.until_done(
            Task(Stage.STATE, tenure),
            lambda: self._pool.submit(self._jobs.timed(self._store.load_attempts), tenure.partition.key),
            loaded,
            unless=Unless(AttemptsUnreadable, unreadable),
        )

    def end(self, tenure: Tenure) -> None:
        """Forget the tenure. What is stored stays: the partition's next owner looks out for it."""
        self._loading.pop(tenure, None)
        self._notes.pop(tenure, None)

    def note_pause(self, tenure: Tenure, *, paused: bool) -> None:
        """Note that the partition's reading is paused, or is not any more, and begin to save it."""
        if (notes := self._notes.get(tenure)) is not None and notes.paused != paused:
            notes.paused, notes.changed = paused, True
            self._save_if_changed()

    def _begin_with(self, tenure: Tenure, stored: Attempts, then: Callable[[Tenure, bool], None]) -> None:
        ended = self._loading.pop(tenure, None)
        if ended is None:
            return  # the tenure has ended meanwhile
        notes = self._notes[tenure] = PartitionNotes.of(tenure, stored, ended)
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

    def trying(self, arrivals: Iterable[Arrival], then: Callable[[], None]) -> None:
        """Note that a step with these arrivals begins. `then` is called once that is durable, at once if it is."""
        must_be_durable = False
        for record in (arrival.record for arrival in arrivals):
            if (notes := self._notes.get(record.tenure)) is not None:
                must_be_durable |= notes.trying(record)
        if must_be_durable:
            self._save(then)
        else:
            then()

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

    def when_durable(self, then: Callable[[], None]) -> None:
        """Call `then` once what is noted now is durable: at once if it is."""
        if self.saving or any(notes.changed for notes in self._notes.values()):
            self._save(then)
        else:
            then()

    def _save(self, then: Callable[[], None]) -> None:
        self._waiting.append(then)
        if not self.saving:
            self._save_changed()

    def _save_if_changed(self) -> None:
        if any(notes.changed for notes in self._notes.values()):
            self._save(lambda: None)

    def _save_changed(self) -> None:
        """Save all that changed. One save at a time, so that none overtakes another; the next one takes the rest."""
        self.saving = True
        then, self._waiting = self._waiting, []
        contents = {}
        for tenure, notes in self._notes.items():
            if notes.changed:
                contents[tenure.partition.key] = notes.content()
                notes.changed = False

        def saved(_: Timed[None]) -> None:
            self.saving = False
            for call in then:
                call()
            if self._waiting and not self.saving:
                self._save_changed()

        self._jobs.until_done(
            Task(Stage.STATE, "attempts"),
            lambda: self._pool.submit(self._jobs.timed(self._save_all), contents),
            saved,
        )

    def _save_all(self, contents: Mapping[str, Attempts]) -> None:
        for partition, attempts in contents.items():
            self._store.save_attempts(partition, attempts)
