"""The tier between the store and the device: states of users that nobody works on, within a bound. Pure."""

from corlld.loop.memory.prefetch import Prefetch
from corlld.loop.memory.stored import Residency, Resident
from corlld.loop.memory.unsaved import Unsaved, UnsavedStates
from corlld.records import UserState
from corlld.settings.sections import Settings


class HostMemory:
    """Stored states, unsaved ones, and which to load ahead. A user is in one of the first two, or in neither."""

    def __init__(self, settings: Settings) -> None:
        batching = settings.batching
        self._residency = Residency(settings.state.host_memory_bytes)
        self.unsaved = UnsavedStates(
            settings.snapshot, self._residency, batching.max_buffered_events, batching.max_buffered_chars
        )
        self.prefetch = Prefetch(self._residency)

    @property
    def users(self) -> int:
        return len(self._residency) + len(self.unsaved)

    @property
    def nbytes(self) -> int:
        return self._residency.nbytes + self.unsaved.nbytes

    def expect(self, uid: str) -> None:
        """An edit of the user came in."""
        if uid not in self.unsaved:
            self.prefetch.expect(uid)

    def begin(self, uid: str) -> Unsaved | Resident | None:
        """What is here of a user whose micro-batch begins; None: it has to be loaded. Unsaved updates leave."""
        self.prefetch.forget(uid)
        return self.unsaved.take(uid) or self._residency.get(uid)

    def put_unsaved(self, unsaved: Unsaved) -> None:
        """Keep updates that are not stored, in place of what was stored before them."""
        self._residency.drop(unsaved.state.uid)
        self.unsaved.put(unsaved)

    def put_stored(self, uid: str, state: UserState | None, token: str) -> None:
        """Keep what is stored of the user, as far as there is room."""
        self._residency.put(uid, state, token)

    def drop(self, uid: str) -> None:
        """What is stored of the user may be another by now, or can't be read."""
        self.prefetch.forget(uid)
        self._residency.drop(uid)

    def end_partition(self, key: str) -> list[Unsaved]:
        """Another owner may replace the partition's states: forget them. Returns the updates that were unsaved."""
        self._residency.drop_partition(key)
        self.prefetch.clear()
        return self.unsaved.take_partition(key)
