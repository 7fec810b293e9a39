"""States kept in host memory, least recently used out first. Pure; owned by one thread.

Nothing is lost when a state goes: it was stored before it came in. Whoever works on a state holds it by itself, so a
state in use may go as well.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from corlld.records import UserState

_STATE_BYTES = 4096  # of a state without its tensors and event ids: figures, mappings, objects
_STRING_BYTES = 64  # of a string besides its characters


@dataclass(frozen=True, slots=True)
class Resident:
    """A stored state, and the token to replace it with."""

    state: UserState
    token: str


def state_nbytes(state: UserState) -> int:
    """About what a state takes in host memory, in bytes."""
    ids = sum(_STRING_BYTES + len(event_id) for event_id in state.recent_event_ids)
    return _STATE_BYTES + ids + (state.adapter.nbytes if state.adapter is not None else 0)


class Residency:
    """A bounded map from user to stored state.

    Args:
        capacity_bytes: of all states together; one that is larger by itself is not kept.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._residents: OrderedDict[str, Resident] = OrderedDict()  # least recently used first
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._residents)

    def get(self, uid: str) -> Resident | None:
        """The user's state, which counts as a use; None where it has to be loaded."""
        if (resident := self._residents.get(uid)) is not None:
            self._residents.move_to_end(uid)
        return resident

    def put(self, uid: str, state: UserState, token: str) -> None:
        """Keep a stored state, in place of the one before; others go to make room."""
        self.drop(uid)
        self._residents[uid] = Resident(state, token)
        self.nbytes += state_nbytes(state)
        while self.nbytes > self._capacity_bytes:
            self.drop(next(iter(self._residents)))

    def drop(self, uid: str) -> None:
        """Forget the user's state, if it is here."""
        if (resident := self._residents.pop(uid, None)) is not None:
            self.nbytes -= state_nbytes(resident.state)

    def drop_where(self, applies: Callable[[UserState], bool]) -> None:
        """Forget every state that `applies` says yes to."""
        for uid in [uid for uid, resident in self._residents.items() if applies(resident.state)]:
            self.drop(uid)
