"""The journal of attempts: which steps have begun and were never seen to end, and which dead letters are acknowledged.

A step can end the process (an assertion on the device, a kernel's bug), or never end, so that the watchdog ends the
process. The next owner of the partition replays the same events. So it must find out that they were tried already:

* Each partition has a *mark*, `tried_below`. No step begins with an event at the mark or above before the mark was
  raised, durably. It is raised by 1,000 records at once: as a rule a step writes nothing.
* An event below the mark that a tenure found at its beginning may have been in a step that never ended. Before each
  step with such an event its number of tries is raised, durably. After the step the number is removed.

So the first crash is not counted, only looked out for. From then on `caution` names how carefully an event is tried.
With `learning.max_crashes` = n, an event that always ends the process is a dead letter after n + 3 lives: one that is
not counted, n with others in the step, one with its user alone, one all alone.

The journal needs neither a clock nor a clean end, and nobody has to know who is alive: it belongs to the partition. A
daemon that has lost a partition, and does not know it yet, may overwrite it once. That costs at most one more life.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import IntEnum

import structlog

from corlld.durable import Attempts
from corlld.errors import AttemptsUnreadable
from corlld.loop.jobs import Jobs, Task, Timed, Unless
from corlld.protocols import AttemptStore
from corlld.records import Arrival, Record, Stage, Tenure

log = structlog.get_logger("corlld.attempts")

MARK_RECORDS = 1_000  # the mark is raised by so many records of the size of the last one
LETTERS_EVERY_SECONDS = 5.0
MAX_LETTERS = 10_000  # remembered per partition; of others there may be copies


class Caution(IntEnum):
    """How carefully an event is tried."""

    NONE = 0
    AFTER_OTHERS = 1  # together with other such events
    USER_ALONE = 2
    EVENT_ALONE = 3
    NEVER = 4  # it ended the process alone too


@dataclass
class _Notes:
    """What is known of a live tenure's partition.

    doubtful_below: the mark that the tenure found. Nothing at it or above was tried before the tenure.
    committed: the committed offset, as last seen.
    new_letters: since letters were last looked at.
    changed: since all of it was last saved.
    """

    doubtful_below: int
    tried_below: int
    tries: dict[int, int]
    letters: set[int]
    committed: int
    new_letters: bool = False
    changed: bool = False

    def content(self) -> Attempts:
        return Attempts(self.tried_below, self.committed, dict(self.tries), frozenset(self.letters))


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
        self._notes: dict[Tenure, _Notes] = {}
        self._loading: dict[Tenure, set[int]] = {}  # with the offsets whose steps have ended meanwhile
        self._waiting: list[Callable[[], None]] = []  # called once what is noted now is durable
        self._next_letters = 0.0
        self.saving = False

    # --- tenures ------------------------------------------------------------------------------------------------------

    @property
    def loading(self) -> bool:
        """True while the attempts of a new tenure are not known: none of its records may be admitted."""
        return bool(self._loading)

    def begin(self, tenure: Tenure) -> None:
        """Begin to load what the partition's owners before have tried."""
        self._loading[tenure] = set()

        def loaded(found: Timed[Attempts | None]) -> None:
            self._begin_with(tenure, found.result or Attempts())

        def unreadable(error: AttemptsUnreadable) -> None:
            log.error("attempts_unreadable", partition=tenure.partition.partition, problem=str(error))
            self._begin_with(tenure, Attempts())

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

    def _begin_with(self, tenure: Tenure, stored: Attempts) -> None:
        ended = self._loading.pop(tenure, None)
        if ended is None:
            return  # the tenure has ended meanwhile
        start = tenure.start_offset
        tries = {offset: count for offset, count in stored.tries.items() if offset >= start and offset not in ended}
        # A group that was set back on purpose wants its records anew, and the letters too.
        letters = {offset for offset in stored.letters if offset >= start} if start >= stored.committed else set()
        changed = not ended.isdisjoint(stored.tries)
        mark = stored.tried_below
        self._notes[tenure] = _Notes(mark, mark, tries, letters, start, changed=changed)
        self._save_if_changed()
        if tries:
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

    def trying(self, arrivals: Iterable[Arrival], then: Callable[[], None]) -> None:
        """Note that a step with these arrivals begins. `then` is called once that is durable, at once if it is."""
        must_be_durable = False
        for record in (arrival.record for arrival in arrivals):
            if (notes := self._notes.get(record.tenure)) is None:
                continue
            if record.offset < notes.doubtful_below:
                notes.tries[record.offset] = notes.tries.get(record.offset, 0) + 1
                notes.changed = must_be_durable = True
            if record.offset >= notes.tried_below:
                notes.tried_below = record.next_offset + MARK_RECORDS * (record.next_offset - record.offset)
                notes.changed = must_be_durable = True
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
        notes = self._notes.get(record.tenure)
        if notes is not None and len(notes.letters) < MAX_LETTERS:
            notes.letters.add(record.offset)
            notes.tries.pop(record.offset, None)
            notes.new_letters = True

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
            left = {offset for offset in notes.letters if offset >= notes.committed}
            notes.changed |= len(left) < len(notes.letters) or (notes.new_letters and bool(left))
            notes.letters = left
            notes.new_letters = False
        self._save_if_changed()

    # --- saving -------------------------------------------------------------------------------------------------------

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
