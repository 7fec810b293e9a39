"""Stored states kept in host memory, least recently used out first. Pure; owned by one thread.

Nothing is lost when a state goes: it was stored before it came in. Whoever works on a state holds it by itself, so a
state in use may go as well.
"""

from collections import OrderedDict
from dataclasses import dataclass

from corlld.records import UserState

_STATE_BYTES = 4096  # of a state without its tensors and event ids: figures, mappings, objects
_STRING_BYTES = 64  # of a string besides its characters


@dataclass(frozen=True, slots=True)
class Resident:
    """What is stored of a user (None: nothing yet), and the token to replace it with."""

    state: UserState | None
    token: str


def state_nbytes(state: UserState | None) -> int:
    """About what a state takes in host memory, in bytes."""
    if state is None:
        return _STATE_BYTES
    ids = sum(_STRING_BYTES + len(event_id) for event_id in state.recent_event_ids)
    return _STATE_BYTES + ids + (state.adapter.nbytes if state.adapter is not None else 0)


class Residency:
    """A bounded map from user to stored state.

    Args:
        capacity_bytes: of all states together, those that others `reserve` room for included; a state that is larger
            by itself is not kept.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._reserved_bytes = 0
        self._residents: OrderedDict[str, Resident] = OrderedDict()  # least recently used first
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._residents)

    def __contains__(self, uid: str) -> bool:
        return uid in self._residents

    @property
    def room_bytes(self) -> int:
        """What the stored states may take together."""
        return max(0, self.capacity_bytes - self._reserved_bytes)

    def reserve(self, nbytes: int) -> None:
        """So much of the capacity is taken by states that can't go; stored ones give way."""
        self._reserved_bytes = nbytes
        self._make_room()

    def get(self, uid: str) -> Resident | None:
        """What is stored of the user, which counts as a use; None where it has to be loaded."""
        if (resident := self._residents.get(uid)) is not None:
            self._residents.move_to_end(uid)
        return resident

    def put(self, uid: str, state: UserState | None, token: str) -> None:
        """Keep what is stored, in place of what was before; others go to make room."""
        self.drop(uid)
        self._residents[uid] = Resident(state, token)
        self.nbytes += state_nbytes(state)
        self._make_room()

    def drop(self, uid: str) -> None:
        """Forget the user's state, if it is here."""
        if (resident := self._residents.pop(uid, None)) is not None:
            self.nbytes -= state_nbytes(resident.state)

    def drop_partition(self, key: str) -> None:
        """Forget every state that the next owner of the partition may replace: a new user's may be its as well."""
        for uid, resident in list(self._residents.items()):
            if resident.state is None or key in resident.state.applied:
                self.drop(uid)

    def _make_room(self) -> None:
        while self.nbytes > self.room_bytes:
            self.drop(next(iter(self._residents)))
