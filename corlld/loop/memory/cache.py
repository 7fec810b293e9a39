"""Stored states that are kept in host memory; the least recently used leaves first. Pure; owned by one thread.

Nothing is lost when a state leaves, since the store has it. A stage that works on a state holds its own reference, so a
state in use may leave as well.
"""

from collections import OrderedDict
from dataclasses import dataclass

from corlld.durable import UserState

_STATE_BYTES = 4096  # of a state without its tensors and event ids: figures, mappings, objects
_STRING_BYTES = 64  # of a string besides its characters


@dataclass(frozen=True, slots=True)
class StoredState:
    """A user's state as the store has it (None: the store has none), and the token to replace it with."""

    state: UserState | None
    token: str


def state_nbytes(state: UserState | None) -> int:
    """Estimate how much host memory a state takes, in bytes."""
    if state is None:
        return _STATE_BYTES
    ids = sum(_STRING_BYTES + len(event_id) for event_id in state.recent_event_ids)
    ids += len(state.older_event_ids)
    return _STATE_BYTES + ids + (state.adapter.nbytes if state.adapter is not None else 0)


class StoredStates:
    """A bounded map from user to stored state.

    Args:
        capacity_bytes: limit of all states together, including what is reserved with `reserve`. A state that is larger
            by itself is not kept.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._reserved_bytes = 0
        self._states: OrderedDict[str, StoredState] = OrderedDict()  # least recently used first
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, uid: str) -> bool:
        return uid in self._states

    @property
    def room_bytes(self) -> int:
        """The bytes that the stored states may take together."""
        return max(0, self.capacity_bytes - self._reserved_bytes)

    def reserve(self, nbytes: int) -> None:
        """Reserve `nbytes` of the capacity for states that must stay. Stored states leave to make room."""
        self._reserved_bytes = nbytes
        self._make_room()

    def get(self, uid: str) -> StoredState | None:
        """Return the user's stored state, and count this as a use; None if it has to be loaded."""
        if (held := self._states.get(uid)) is not None:
            self._states.move_to_end(uid)
        return held

    def put(self, uid: str, state: UserState | None, token: str) -> None:
        """Keep the user's stored state, in place of an older state. Other states leave to make room."""
        self.drop(uid)
        self._states[uid] = StoredState(state, token)
        self.nbytes += state_nbytes(state)
        self._make_room()

    def drop(self, uid: str) -> None:
        """Forget the user's state, if it is here."""
        if (held := self._states.pop(uid, None)) is not None:
            self.nbytes -= state_nbytes(held.state)

    def drop_partition(self, key: str) -> None:
        """Forget every state that the partition's next owner may replace.

        Users without a stored state are forgotten too: they may belong to this partition.
        """
        for uid, held in list(self._states.items()):
            if held.state is None or key in held.state.applied:
                self.drop(uid)

    def _make_room(self) -> None:
        while self.nbytes > self.room_bytes:
            self.drop(next(iter(self._states)))
