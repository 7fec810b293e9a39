"""The states of users that nobody works on, in host memory: between the store and the device, within a bound. Pure."""

from corlld.durable import UserState
from corlld.loop.memory.cache import StoredState, StoredStates
from corlld.loop.memory.prefetch import Prefetch
from corlld.loop.memory.unsaved import Unsaved, UnsavedStates
from corlld.settings.sections import Settings


class HostMemory:
    """Stored states, unsaved states, and the users whose states are loaded ahead.

    No user has a stored and an unsaved state here at the same time.
    """

    def __init__(self, settings: Settings) -> None:
        batching = settings.batching
        self._stored = StoredStates(settings.state.host_memory_bytes)
        self.unsaved = UnsavedStates(
            settings.snapshot, self._stored, batching.max_buffered_events, batching.max_buffered_chars
        )
        self.prefetch = Prefetch(self._stored)

    @property
    def users(self) -> int:
        return len(self._stored) + len(self.unsaved)

    @property
    def nbytes(self) -> int:
        return self._stored.nbytes + self.unsaved.nbytes

    def expect(self, uid: str) -> None:
        """Note that an edit of the user came in, so that the state may be loaded ahead."""
        if uid not in self.unsaved:
            self.prefetch.expect(uid)

    def begin(self, uid: str) -> Unsaved | StoredState | None:
        """Return the state of a user whose micro-batch begins; None if it has to be loaded.

        An unsaved state leaves host memory. A stored state also stays in the cache.
        """
        self.prefetch.forget(uid)
        return self.unsaved.take(uid) or self._stored.get(uid)

    def put_unsaved(self, unsaved: Unsaved) -> None:
        """Keep updates that are not stored, in place of the state that was stored before them."""
        self._stored.drop(unsaved.state.uid)
        self.unsaved.put(unsaved)

    def put_stored(self, uid: str, state: UserState | None, token: str) -> None:
        """Keep the user's stored state (None: the store has none), if there is room."""
        self._stored.put(uid, state, token)

    def drop(self, uid: str) -> None:
        """Forget the user's stored state: the store may hold another by now, or it can't be read."""
        self.prefetch.forget(uid)
        self._stored.drop(uid)

    def end_partition(self, key: str) -> list[Unsaved]:
        """Forget the partition's states, since another owner may replace them. Return the updates that were unsaved."""
        self._stored.drop_partition(key)
        self.prefetch.clear()
        return self.unsaved.take_partition(key)
