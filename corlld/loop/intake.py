"""The way in: turns each record into an arrival or a dead letter.

It does not know what becomes of an arrival.
"""

from collections import Counter
from functools import partial

import structlog

from corlld.errors import ExitCode, FatalError, InvalidEvent, InvalidReason
from corlld.events.decoder import EventDecoder
from corlld.events.pseudonyms import Pseudonyms
from corlld.loop.attempts import AttemptJournal
from corlld.loop.jobs import Jobs, Task
from corlld.loop.offsets import LowWatermarks
from corlld.loop.poison import Poison
from corlld.observer import Observer
from corlld.protocols import DeadLetters
from corlld.records import Arrival, DeadLetter, EditEvent, Record, Stage

log = structlog.get_logger("corlld.intake")

MAX_PENDING_DEAD_LETTERS = 1_000
TRY_AGAIN_HEADER = "corlld.try_again"  # of a record that people have sent again after its event had ended the process


class Intake:
    """Admits valid records and sets the others aside as dead letters.

    The record of a dead letter is finished once the letter is acknowledged.
    """

    def __init__(
        self,
        decoder: EventDecoder,
        pseudonyms: Pseudonyms,
        dead_letters: DeadLetters,
        watermarks: LowWatermarks,
        journal: AttemptJournal,
        poison: Poison,
        observer: Observer,
        jobs: Jobs,
    ) -> None:
        self._decoder = decoder
        self._pseudonyms = pseudonyms
        self._dead_letters = dead_letters
        self._watermarks = watermarks
        self._journal = journal
        self._poison = poison
        self._observer = observer
        self._jobs = jobs
        self._admitted = 0
        self._refused: Counter[InvalidReason] = Counter()
        self.pending = 0  # dead letters that are not acknowledged yet

    @property
    def full(self) -> bool:
        """True if so many dead letters are pending that reading must pause."""
        return self.pending >= MAX_PENDING_DEAD_LETTERS

    def admit(self, record: Record, now: float) -> Arrival | None:
        """Return the record's arrival; None if the record was set aside. Its offset must be started.

        A record whose event ended the process too often is set aside too, and so is each record that delivers the event
        again, but one with the header TRY_AGAIN_HEADER. A record whose dead letter was acknowledged in an earlier life
        is finished: it gets no second letter.

        Pauses the partition if too large a share of its recent records is invalid; see `Poison.judge`.

        Args:
            record: a record of a live tenure.
            now: seconds on the daemon's monotonic clock.
        """
        if self._journal.is_set_aside(record):
            self._watermarks.finish(record)
            return None
        try:
            event = self._decoder.decode(record.key, record.value, record.headers)
        except InvalidEvent as error:
            self._refused[error.reason] += 1
            self._poison.judge(record, now, invalid=True)
            self.set_aside(DeadLetter(record, error, self._uid_of_key(record.key)))
            return None
        self._admitted += 1
        self._poison.judge(record, now, invalid=False)
        uid = self._pseudonyms.uid(event.user_id)
        if isinstance(event, EditEvent) and self._ended_the_process(record, uid, event.event_id):
            problem = InvalidEvent(InvalidReason.CRASHED, detail="its step ended the process, also alone")
            letter = DeadLetter(record, problem, uid)
            self._journal.when_durable(record.tenure, lambda: self.set_aside(letter))
            return None
        return Arrival(uid, event, record, now)

    def refuse_if_nothing_was_valid(self) -> None:
        """Judge an input that was read from its beginning to its end. Raises FatalError if it held no valid event."""
        if not self._admitted:
            counts = ", ".join(f"{count} {reason}" for reason, count in self._refused.most_common())
            raise FatalError(f"the input has no valid event: {counts or 'it is empty'}", ExitCode.DATA)

    def set_aside(self, letter: DeadLetter) -> None:
        """Send the letter until it is acknowledged; then its record is finished."""
        self.pending += 1
        self._observer.dead_letter(letter)
        log.warning(
            "dead_letter",
            reason=letter.error.reason.value,
            field=letter.error.field,
            uid=letter.uid,
            partition=letter.record.tenure.partition.partition,
            offset=letter.record.offset,
        )
        self._jobs.until_done(
            Task(Stage.DEAD_LETTERS, (letter.record.tenure.number, letter.record.offset)),
            lambda: self._dead_letters.send(letter),
            lambda _: self._finish(letter),
        )

    def _ended_the_process(self, record: Record, uid: str, event_id: str) -> bool:
        """Return whether the event ended the process too often. One that people have sent again is tried again."""
        event_hash = partial(self._pseudonyms.event_id_hash, uid, event_id)
        if any(name == TRY_AGAIN_HEADER for name, _ in record.headers):
            self._journal.try_again(record, event_hash())
        return self._journal.ended_the_process(record, event_hash)

    def _finish(self, letter: DeadLetter) -> None:
        self.pending -= 1
        self._journal.acknowledged(letter.record)
        self._watermarks.finish(letter.record)

    def _uid_of_key(self, key: bytes | None) -> str | None:
        try:
            return None if key is None else self._pseudonyms.uid(key.decode())
        except UnicodeDecodeError:
            return None
