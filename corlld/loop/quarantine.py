"""Decides when the users are tried whose events were in a step that was never seen to end: last, and alone.

A step of such a suspect may end the process. So the others come first, and nothing may be unsaved that the end would
undo. The journal says how carefully each event must be tried; the steps themselves are begun in `claims`.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import structlog

from corlld.loop.attempts import AttemptJournal, Caution
from corlld.loop.batching import Batcher
from corlld.records import Arrival
from corlld.settings.sections import BatchingSettings

log = structlog.get_logger("corlld.attempts")

PATIENCE_SECONDS = 60.0  # under steady traffic there is always somebody else to train


@dataclass(frozen=True, slots=True)
class Turn:
    """The users who may be claimed now.

    closed: nobody but `users`, and all that is unsaved is due.
    users: suspects whose trial begins. Always empty if not `closed`.
    suspects: neither to be claimed nor to be trained. Empty during a trial.
    """

    closed: bool = False
    users: tuple[str, ...] = ()
    suspects: Collection[str] = ()


class Quarantine:
    """Keeps suspects apart. Time is an argument."""

    def __init__(self, settings: BatchingSettings, journal: AttemptJournal, batcher: Batcher) -> None:
        self._settings = settings
        self._journal = journal
        self._batcher = batcher
        self._users: set[str] = set()  # had a doubtful event; most have none any more
        self._due_since: float | None = None  # a suspect has been due
        self._closed_since: float | None = None
        self._trial: Caution | None = None  # under way

    @property
    def max_events(self) -> int:
        """The largest number of events per user in the next step."""
        return 1 if self._trial is Caution.EVENT_ALONE else self._settings.max_events

    def expect(self, arrival: Arrival) -> None:
        """Note that the event waits, if it was tried before."""
        if self._journal.caution(arrival.record):
            self._users.add(arrival.uid)

    def turn(self, now: float, *, busy: bool, unsaved: bool, held: Collection[str] = ()) -> Turn:
        """Return who may be claimed. A trial is over once nothing is under way or unsaved any more.

        Args:
            now: monotonic seconds.
            busy: users are claimed.
            unsaved: updates are in host memory alone, and no waiting erasure is going to replace them.
            held: users who may not train now. Nobody waits for them.
        """
        if self._trial is not None:
            if busy or unsaved:
                return self._closed_for_a_while(now)
            self._trial = self._due_since = self._closed_since = None
        suspects = dict(self._suspects())
        due = [uid for uid in self._batcher.ready(now, exclude=held) if uid in suspects] if suspects else []
        if not due:
            self._due_since = None
            return Turn(suspects=suspects)
        self._due_since = now if self._due_since is None else self._due_since
        others = busy or any(uid not in suspects for uid in self._batcher.ready(now, exclude=held))
        if others and now - self._due_since < PATIENCE_SECONDS:
            return Turn(suspects=suspects)
        if busy or unsaved:
            return self._closed_for_a_while(now)
        self._closed_since = now
        self._trial = min(suspects[uid] for uid in due)
        users = [uid for uid in due if suspects[uid] is self._trial]
        at_once = self._settings.max_users_per_step if self._trial is Caution.AFTER_OTHERS else 1
        log.warning("suspects_are_tried", uids=users[:at_once], caution=self._trial.name.lower())
        return Turn(closed=True, users=tuple(users[:at_once]))

    def _closed_for_a_while(self, now: float) -> Turn:
        """Close for PATIENCE_SECONDS, then open to all but suspects for as long, and so on.

        A user whose state can't be stored may be busy for ever. That must not halt the others.
        """
        self._closed_since = now if self._closed_since is None else self._closed_since
        closed_seconds = now - self._closed_since
        if closed_seconds < PATIENCE_SECONDS:
            return Turn(closed=True, suspects=() if self._trial is not None else dict(self._suspects()))
        self._trial = None  # what is left of it is no step any more, or must begin anew
        if closed_seconds >= 2 * PATIENCE_SECONDS:
            self._closed_since = None
        return Turn(suspects=dict(self._suspects()))

    def _suspects(self) -> Iterator[tuple[str, Caution]]:
        """Yield the users with doubtful events in the buffer, unless an erasure is going to cover them."""
        if not self._journal.doubts:
            self._users.clear()
        for uid in self._users:
            waiting = self._batcher.waiting_of(uid)
            caution = max((self._journal.caution(arrival.record) for arrival in waiting), default=Caution.NONE)
            if caution and not self._batcher.erases(uid):
                yield uid, min(caution, Caution.EVENT_ALONE)
