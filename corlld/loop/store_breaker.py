"""Loads states, and stops the daemon if the states of too many users can't be read.

One user's torn state is the trouble of that user, whose records become dead letters. If many states can't be read, the
store or this program is in trouble. Dead letters would then take good records out of the order of their users.
"""

import threading
from collections import OrderedDict

from corlld.errors import ExitCode, FatalError, StateUnreadable
from corlld.protocols import StateStore
from corlld.records import UserState

SAMPLE_USERS = 20  # judged over the states of so many users at least, if the store has as many
RECENT_USERS = 100
LEAST_UNREADABLE = 2  # users; a single one never stops the daemon


class StoreBreaker:
    """Loads states from a store. Thread-safe.

    Args:
        store: must be opened.
        max_share: the largest share of users whose states can't be read.
    """

    def __init__(self, store: StateStore, max_share: float) -> None:
        self._store = store
        self._max_share = max_share
        self._lock = threading.Lock()
        self._readable: OrderedDict[str, bool] = OrderedDict()  # by uid: users loaded most recently, newest last

    def load(self, uid: str) -> tuple[UserState | None, str]:
        """Return what the store returns: the newest state, and the token for the next `save`.

        Raises:
            StateUnreadable: this user's state can't be read, and those of most other users can.
            FatalError: the states of too many users can't be read, or a state is in a newer format.
            RetriableError: it has to be tried again.
        """
        try:
            state, token = self._store.load(uid)
        except StateUnreadable as error:
            with self._lock:
                self._note(uid, readable=False)
                self._look_at_others()
                self._judge(error)
            raise
        if state is not None:
            with self._lock:
                self._note(uid, readable=True)
        return state, token

    def _note(self, uid: str, *, readable: bool) -> None:
        self._readable[uid] = readable
        self._readable.move_to_end(uid)
        if len(self._readable) > RECENT_USERS:
            self._readable.popitem(last=False)

    def _look_at_others(self) -> None:
        """Load states of other users until enough are known for a judgement, or the store has no more."""
        if len(self._readable) >= SAMPLE_USERS:
            return
        for uid in self._store.uids():
            if uid in self._readable:
                continue
            try:
                self._store.load(uid)
                self._note(uid, readable=True)
            except StateUnreadable:
                self._note(uid, readable=False)
            if len(self._readable) >= SAMPLE_USERS:
                return

    def _judge(self, error: StateUnreadable) -> None:
        users = len(self._readable)
        unreadable = users - sum(self._readable.values())
        if unreadable >= LEAST_UNREADABLE and unreadable > self._max_share * users:
            raise FatalError(
                f"the states of {unreadable} of {users} users can't be read, more than state.max_unreadable_share = "
                f"{self._max_share:.0%}: was the store damaged, or corlld replaced by another version? No record was "
                "set aside for the last of them, and none is committed. Repair or restore the store; with a higher "
                f"share the daemon sets such users aside and goes on. The last one: {error}",
                ExitCode.DATA,
            )
