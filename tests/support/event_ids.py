"""Event ids as states keep them, under the secret of the tests."""

from corlld.loop.event_ids import EventIds
from tests.support.daemon_parts import PSEUDONYMS


def event_ids(recent: int, older: int = 100_000) -> EventIds:
    """Return the rules for a window of so many ids, and so many hashes."""
    return EventIds(PSEUDONYMS.event_id_hash, recent, older)


def hashes(*ids: str, uid: str = "u1") -> bytes:
    """Return the hashes of event ids, as a state keeps them."""
    return b"".join(PSEUDONYMS.event_id_hash(uid, event_id) for event_id in ids)
