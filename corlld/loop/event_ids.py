"""Decides which event ids a user's state remembers, and recognises an id that it remembers. Pure.

A state knows every id that ever reached it, edits and erasures alike, up to a bound. The newest stand in it as they
are. An id that leaves this window is kept as a hash of 8 bytes, keyed by the identity secret and the user: it can be
recognised, and not read. An erasure turns every id into such a hash, those of the edits that it covers included. So
no delivery is learnt from twice, whatever was erased between:

    what is delivered                      its id is     what becomes of it
    -----------------------------------    ----------    ------------------------------------------------------------
    a new edit                             unknown       learnt; after an erasure it is the user's new beginning
    an edit once more                      known         passed over: learnt before, or erased before
    a new erasure                          unknown       erases all that came before it
    an erasure once more, or an older      known         passed over: what came in since then stays
        erasure after a newer one
    a Kafka tombstone                      it has none   erases each time

Order, topic, partition and the events' own times play no part. What the table can't cover, since no id is known:

- Ids beyond the bound. The oldest are forgotten first, so that a state has a largest size. A forgotten edit that is
  delivered once more counts as new, and so does a forgotten erasure: it erases once more.
- Edits that never reached the state: they were dead letters, or lay before the offset where the group began.
- Ids that left the window, or were erased, before there were hashes.

Two ids have the same hash with a chance of one in 2**64: it loses an edit of a user with 100,000 known ids once in
10**14 edits.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from corlld.durable import UserState

HASH_BYTES = 8


class EventIds:
    """See the module.

    Args:
        hashed: returns the hash of an event id, HASH_BYTES long, for a uid and the id.
        recent: how many ids a state keeps as they are.
        older: how many ids before those a state keeps as hashes.
    """

    def __init__(self, hashed: Callable[[str, str], bytes], recent: int, older: int) -> None:
        self._hashed = hashed
        self._recent = recent
        self._older = older

    def known(self, state: UserState | None) -> Callable[[str], bool]:
        """Return what tells whether the state remembers an id. None: a user without a state."""
        return known_ids(state, self._hashed)

    def remember(self, state: UserState, event_ids: Iterable[str]) -> UserState:
        """Return the state with new ids in its window. Those that leave the window are kept as hashes."""
        window = (*state.recent_event_ids, *event_ids)
        first = max(0, len(window) - self._recent)
        return replace(state, recent_event_ids=window[first:], older_event_ids=self._hashes(state, window[:first]))

    def erase(self, state: UserState, event_ids: Iterable[str]) -> UserState:
        """Return the state with all its ids as hashes, and those of `event_ids` that it did not know yet."""
        known = self.known(state)
        new = (event_id for event_id in dict.fromkeys(event_ids) if not known(event_id))
        hashes = self._hashes(state, (*state.recent_event_ids, *new))
        return replace(state, recent_event_ids=(), older_event_ids=hashes)

    def _hashes(self, state: UserState, event_ids: Iterable[str]) -> bytes:
        hashes = state.older_event_ids + b"".join(self._hashed(state.uid, event_id) for event_id in event_ids)
        return hashes[max(0, len(hashes) - self._older * HASH_BYTES) :]


def known_ids(state: UserState | None, hashed: Callable[[str, str], bytes]) -> Callable[[str], bool]:
    """Return what tells whether the state remembers an id. hashed: as for `EventIds`."""
    if state is None:
        return lambda _: False
    recent, uid, hashes = set(state.recent_event_ids), state.uid, state.older_event_ids
    return lambda event_id: event_id in recent or (bool(hashes) and _has(hashes, hashed(uid, event_id)))


def _has(hashes: bytes, wanted: bytes) -> bool:
    """Return whether `wanted` is one of the hashes. A match that begins within a hash is none."""
    at = hashes.find(wanted)
    while at >= 0 and at % HASH_BYTES:
        at = hashes.find(wanted, at + 1)
    return at >= 0
