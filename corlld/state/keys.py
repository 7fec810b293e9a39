"""Keys that both state stores use alike: names of users, and the token of a user without a state."""

import re

NO_STATE = "0"  # the token that the first `save` of a user needs

UID_PATTERN = r"[0-9a-f]{32}"

_UID = re.compile(UID_PATTERN)


def is_uid(name: str) -> bool:
    """Return whether the name is a user's pseudonym."""
    return _UID.fullmatch(name) is not None


def checked_uid(uid: str) -> str:
    """Return the uid. Raises ValueError for any other text: it could name a file outside of the store."""
    if not is_uid(uid):
        raise ValueError("a uid is 32 hex digits")
    return uid
