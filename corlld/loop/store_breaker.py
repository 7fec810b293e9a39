"""Loads states, and stops the daemon if the states of too many users can't be read.

One user's torn state is the trouble of that user, whose records become dead letters. If many states can't be read, the
store or this program is in trouble. Dead letters would then take good records out of the order of their users.

The users whose states are loaded are no fair sample of the store: a state that can't be read is loaded with every
micro-batch, and any other one stays in host memory. So the store's first users are looked at. Their pseudonyms are
random, so these users are like all others.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from corlld.durable import UserState
from corlld.errors import ExitCode, FatalError, RetriableError, StateUnreadable
from corlld.protocols import StateStore

SAMPLE_USERS = 100
LOOK_SECONDS = 5.0  # for the heads of the sample's states, and again for the states; a call under way is awaited
LOOK_AGAIN_SECONDS = 600.0
LEAST_UNREADABLE = 3  # users, or both users of a store that has two; a single one never stops the daemon


@dataclass(frozen=True, slots=True)
class _Look:
    """Numbers of users. away: their states could not be reached."""

    readable: int
    unreadable: int
    away: int

    @property
    def judged(self) -> int:
        return self.readable + self.unreadable


class StoreBreaker:
    """Loads states from a store. Thread-safe: a state that can be read waits for nothing else.

    Args:
        store: must be opened.
        max_share: the largest share of users whose states can't be read.
        clock: monotonic seconds.
    """

    def __init__(self, store: StateStore, max_share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._max_share = max_share
        self._clock = clock
        self._lock = threading.Lock()  # held while the sample is looked at
        self._unreadable: set[str] = set()  # all users whose states could not be read
        self._new = 0  # of them, since the last look
        self._looked_at: float | None = None

    def load(self, uid: str) -> tuple[UserState | None, str]:
        """Return what the store returns: the newest state, and the token for the next `save`.

        Raises:
            StateUnreadable: this user's state can't be read, and those of most other users can.
            FatalError: the states of too many users can't be read, or a state is in a newer format.
            RetriableError: it has to be tried again.
        """
        try:
            return self._store.load(uid)
        except StateUnreadable as error:
            if self._max_share >= 1:
                raise
            with self._lock:
                self._check_store(uid, error)
        # The look takes seconds. A repair that has restored the state meanwhile does not see what is set aside now.
        return self._store.load(uid)

    def _check_store(self, uid: str, error: StateUnreadable) -> None:
        """Look at the store, unless that was done lately and few users had trouble since."""
        self._new += uid not in self._unreadable
        self._unreadable.add(uid)
        fresh = self._looked_at is not None and self._clock() - self._looked_at < LOOK_AGAIN_SECONDS
        if fresh and self._new < LEAST_UNREADABLE:
            return
        sample = list(islice(self._store.uids(), SAMPLE_USERS))
        for read in (self._store.head, self._store.load):  # a head is quick, but tells less
            self._judge(self._look(sample, read), len(sample), error)
        self._looked_at, self._new = self._clock(), 0

    def _look(self, sample: Sequence[str], read: Callable[[str], object]) -> _Look:
        """Read of as many users as the time allows. The sample's beginning is as fair as the whole."""
        end = self._clock() + LOOK_SECONDS
        readable = unreadable = away = 0
        for uid in sample:
            if self._clock() >= end:
                break
            try:
                read(uid)
                readable += 1
            except StateUnreadable:
                unreadable += 1
            except RetriableError:  # this user may be in trouble for as long as the other one
                away += 1
        return _Look(readable, unreadable, away)

    def _judge(self, look: _Look, sample: int, error: StateUnreadable) -> None:
        """Raise FatalError if too many states can't be read, RetriableError if most of them could not be reached."""
        if look.away > look.judged:
            raise RetriableError("most states can't be reached, so it is not known whether this one is torn alone")
        least = min(LEAST_UNREADABLE, max(2, sample))
        if look.unreadable >= least and look.unreadable > self._max_share * look.judged:
            raise FatalError(
                f"the states of {look.unreadable} of {look.judged} users can't be read, more than "
                f"state.max_unreadable_share = {self._max_share:.0%}: was the store damaged, or corlld replaced by "
                "another version? No record was set aside for the last of them, and none is committed. Repair or "
                "restore the store; with a higher share the daemon sets such users aside and goes on. The last one: "
                f"{error}",
                ExitCode.DATA,
            )
