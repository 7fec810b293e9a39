"""Whose state is to be loaded while the user's edits still gather, so that a due micro-batch finds it there. Pure."""

from collections import OrderedDict

from corlld.loop.memory.stored import Residency, state_nbytes
from corlld.records import UserState

LOADS_AT_A_TIME = 2  # loads and writes that are due wait behind them
MEMORY_SHARE = 0.5  # of what stored states may take: those loaded ahead must not push one another out


class Prefetch:
    """Loads ahead, each user once a micro-batch, as far as host memory has room."""

    def __init__(self, residency: Residency) -> None:
        self._residency = residency
        self._wanted: OrderedDict[str, None] = OrderedDict()  # in the order their edits came in
        self._loading: set[str] = set()
        self._waiting: set[str] = set()  # loaded, and not in use yet
        self._largest_bytes = state_nbytes(None)

    def expect(self, uid: str) -> None:
        """An edit of the user came in."""
        if uid not in self._loading and uid not in self._waiting and uid not in self._residency:
            self._wanted[uid] = None

    def next(self) -> str | None:
        """Who is to be loaded now, to be followed by `loaded` or `forget`; None: nobody, or there is no room."""
        ahead = len(self._loading) + len(self._waiting)
        fits = (ahead + 1) * self._largest_bytes <= MEMORY_SHARE * self._residency.room_bytes
        if not self._wanted or not fits or len(self._loading) >= LOADS_AT_A_TIME:
            return None
        uid = self._wanted.popitem(last=False)[0]
        self._loading.add(uid)
        return uid

    def loaded(self, uid: str, state: UserState | None) -> None:
        """The load came back."""
        self._loading.discard(uid)
        self._waiting.add(uid)
        self._largest_bytes = max(self._largest_bytes, state_nbytes(state))

    def forget(self, uid: str) -> None:
        """The user's micro-batch begins, or what was loaded is of no use."""
        self._wanted.pop(uid, None)
        self._loading.discard(uid)
        self._waiting.discard(uid)

    def clear(self) -> None:
        """Nobody is expected any more; what is being loaded still comes back."""
        self._wanted.clear()
        self._waiting.clear()
