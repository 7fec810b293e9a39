"""Updates that are in host memory alone, and which of them are due to be stored. Pure.

A stored state may lag behind training: the arrivals of unsaved updates stay unfinished, so that a crash replays them.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from corlld.durable import UserState
from corlld.loop.memory.cache import StoredStates, state_nbytes
from corlld.loop.transitions import Selection
from corlld.settings.sections import SnapshotSettings

BUFFER_SHARE = 0.5  # of the buffer, for arrivals of unsaved updates; below LOW_MARK, or reading would never resume


@dataclass(frozen=True, slots=True)
class Unsaved:
    """A user's updates since the stored state.

    state: includes all the updates; its version is still that of the stored state.
    token: belongs to the stored state.
    since: when the first update came back, in seconds on the daemon's clock.
    selection: the arrivals that are finished once the state is stored.
    updates: number of micro-batches.
    trained: whether any update took a step.
    """

    state: UserState
    token: str
    since: float
    selection: Selection = field(default_factory=Selection)
    updates: int = 0
    trained: bool = False

    def and_then(self, state: UserState, selection: Selection, *, trained: bool) -> "Unsaved":
        """Return these updates with one more micro-batch, which led to `state`."""
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
    """A map from user to unsaved updates. Stored states in host memory leave to make room for it.

    It is bounded because `due` names the users to store as soon as there are too many.

    Args:
        settings: after how many updates, or seconds, a state is due.
        stored: the stored states, which share host memory with the unsaved states.
        max_events, max_chars: limits of the buffer that counts the arrivals.
    """

    def __init__(self, settings: SnapshotSettings, stored: StoredStates, max_events: int, max_chars: int) -> None:
        self._settings = settings
        self._stored = stored
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
        """Keep a user's updates. The user must have none here."""
        self._users[unsaved.state.uid] = unsaved
        self._count(unsaved, +1)

    def take(self, uid: str) -> Unsaved | None:
        """Remove and return the user's updates, to train on, store or drop them; None if the user has none."""
        if (unsaved := self._users.pop(uid, None)) is not None:
            self._count(unsaved, -1)
        return unsaved

    def take_partition(self, key: str) -> list[Unsaved]:
        """Remove and return all updates that the partition's next owner may train as well."""
        uids = [uid for uid, unsaved in self._users.items() if key in unsaved.state.applied]
        return [unsaved for uid in uids if (unsaved := self.take(uid)) is not None]

    def oldest_since(self) -> float:
        """Return when the oldest update came back, in seconds on the daemon's clock; infinity with none."""
        return min((unsaved.since for unsaved in self._users.values()), default=math.inf)

    def due(self, now: float) -> Iterator[str]:
        """Yield the users whose state must be stored now: by count of updates, by age, or because there are too many.

        There are too many when the states fill host memory, or when their arrivals fill BUFFER_SHARE of the buffer.
        Then the users who were trained least recently are yielded until the rest fits.
        """
        nbytes, events, chars = self.nbytes, self._events, self._chars
        for uid, unsaved in self._users.items():
            if (
                unsaved.updates >= self._settings.every_updates
                or now - unsaved.since >= self._settings.every_seconds
                or nbytes > self._stored.capacity_bytes
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
        self._stored.reserve(self.nbytes)
