"""Users whose newest updates are in host memory alone, and which of them are due to be stored. Pure.

A state may lag behind training: its arrivals stay unfinished, so that a crash replays them.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from corlld.loop.memory.stored import Residency, state_nbytes
from corlld.loop.transitions import Selection
from corlld.records import UserState
from corlld.settings.sections import SnapshotSettings

BUFFER_SHARE = 0.5  # of the buffer, for their arrivals; below LOW_MARK, or reading would never go on again


@dataclass(frozen=True, slots=True)
class Unsaved:
    """A user's updates since the stored state.

    state: with all of them in it, still under the stored version. token: of the stored state. selection: the arrivals
    they settle once stored. updates: micro-batches. trained: whether any of them took a step. since: when the first one
    came back, in seconds on the daemon's clock.
    """

    state: UserState
    token: str
    since: float
    selection: Selection = field(default_factory=Selection)
    updates: int = 0
    trained: bool = False

    def and_then(self, state: UserState, selection: Selection, *, trained: bool) -> "Unsaved":
        """With one more micro-batch."""
        return replace(
            self,
            state=state,
            selection=self.selection + selection,
            updates=self.updates + 1,
            trained=self.trained or trained,
        )

    @property
    def events(self) -> int:
        return len(self.selection.arrivals)

    @property
    def chars(self) -> int:
        return sum(arrival.chars for arrival in self.selection.arrivals)


class UnsavedStates:
    """A map from user to unsaved updates, bounded by what is due. Stored states in host memory give way to it.

    Args:
        max_events, max_chars: of the buffer that the arrivals are counted in.
    """

    def __init__(self, settings: SnapshotSettings, residency: Residency, max_events: int, max_chars: int) -> None:
        self._settings = settings
        self._residency = residency
        self._max_events = BUFFER_SHARE * max_events
        self._max_chars = BUFFER_SHARE * max_chars
        self._users: OrderedDict[str, Unsaved] = OrderedDict()  # least recently trained first
        self.nbytes = 0
        self._events = 0
        self._chars = 0

    def __len__(self) -> int:
        return len(self._users)

    def __contains__(self, uid: str) -> bool:
        return uid in self._users

    def __iter__(self) -> Iterator[str]:
        return iter(self._users)

    def put(self, unsaved: Unsaved) -> None:
        """Keep a user's updates. The user must not be here."""
        self._users[unsaved.state.uid] = unsaved
        self._count(unsaved, +1)

    def take(self, uid: str) -> Unsaved | None:
        """Give up the user's updates, to whoever trains on, stores or drops them."""
        if (unsaved := self._users.pop(uid, None)) is not None:
            self._count(unsaved, -1)
        return unsaved

    def take_partition(self, key: str) -> list[Unsaved]:
        """Give up all that the next owner of the partition may train as well."""
        uids = [uid for uid, unsaved in self._users.items() if key in unsaved.state.applied]
        return [unsaved for uid in uids if (unsaved := self.take(uid)) is not None]

    def oldest_since(self) -> float:
        """When the oldest update came back; infinity with none."""
        return min((unsaved.since for unsaved in self._users.values()), default=math.inf)

    def due(self, now: float) -> Iterator[str]:
        """Who is to be stored: by count, by age, and from the least recently trained on as far as there are too many.

        States may take the whole of host memory, and their arrivals a share of the buffer.
        """
        nbytes, events, chars = self.nbytes, self._events, self._chars
        for uid, unsaved in self._users.items():
            if (
                unsaved.updates >= self._settings.every_updates
                or now - unsaved.since >= self._settings.every_seconds
                or nbytes > self._residency.capacity_bytes
                or events > self._max_events
                or chars > self._max_chars
            ):
                nbytes -= state_nbytes(unsaved.state)
                events -= unsaved.events
                chars -= unsaved.chars
                yield uid

    def _count(self, unsaved: Unsaved, sign: int) -> None:
        self.nbytes += sign * state_nbytes(unsaved.state)
        self._events += sign * unsaved.events
        self._chars += sign * unsaved.chars
        self._residency.reserve(self.nbytes)
