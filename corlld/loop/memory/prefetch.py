"""Names the states to load while their users' edits still gather, so that no due micro-batch waits for a load. Pure.

It loads nothing itself; the loop does.
"""

from collections import OrderedDict

from corlld.durable import UserState
from corlld.loop.memory.cache import StoredStates, state_nbytes

LOADS_AT_A_TIME = 2  # loads and writes that are due wait behind them
MEMORY_SHARE = 0.5  # of the room for stored states: states loaded ahead must not push each other out


class Prefetch:
    """Names the users whose states to load ahead: each once per micro-batch, while host memory has room."""

    def __init__(self, stored: StoredStates) -> None:
        self._stored = stored
        self._wanted: OrderedDict[str, None] = OrderedDict()  # in the order in which their edits came in
        self._loading: set[str] = set()
        self._waiting: set[str] = set()  # loaded, and not in use yet
        self._largest_bytes = state_nbytes(None)

    def expect(self, uid: str) -> None:
        """Note that an edit of the user came in."""
        if uid not in self._loading and uid not in self._waiting and uid not in self._stored:
            self._wanted[uid] = None

    def next(self) -> str | None:
        """Return the user to load now; None if nobody is expected, there is no room, or enough loads are under way.

        The caller must answer with `loaded` or `forget`.
        """
        ahead = len(self._loading) + len(self._waiting)
        fits = (ahead + 1) * self._largest_bytes <= MEMORY_SHARE * self._stored.room_bytes
        if not self._wanted or not fits or len(self._loading) >= LOADS_AT_A_TIME:
            return None
        uid = self._wanted.popitem(last=False)[0]
        self._loading.add(uid)
        return uid

    def loaded(self, uid: str, state: UserState | None) -> None:
        """Note that the user's load came back."""
        self._loading.discard(uid)
        self._waiting.add(uid)
        self._largest_bytes = max(self._largest_bytes, state_nbytes(state))

    def forget(self, uid: str) -> None:
        """Forget the user: the micro-batch begins, or the loaded state is of no use."""
        self._wanted.pop(uid, None)
        self._loading.discard(uid)
        self._waiting.discard(uid)

    def clear(self) -> None:
        """Expect nobody any more. Loads under way still come back."""
        self._wanted.clear()
        self._waiting.clear()
