"""Keys that both state stores use alike: names of users and positions, and the token of a user without a state."""

import hashlib
import re

from corlld.system.stored_json import read_json

NO_STATE = "0"  # the token that the first `save` of a user needs

UID_PATTERN = r"[0-9a-f]{32}"

_UID = re.compile(UID_PATTERN)
_POSITION_NAME = re.compile(r"[0-9a-f]+")
_REPAIR_NAME = re.compile(r"[0-9a-f]{32}00")


def is_uid(name: str) -> bool:
    """Return whether the name is a user's pseudonym."""
    return _UID.fullmatch(name) is not None


def checked_uid(uid: str) -> str:
    """Return the uid. Raises ValueError for any other text: it could name a file outside the store."""
    if not is_uid(uid):
        raise ValueError("a uid is 32 hex digits")
    return uid


def checked_position_name(name: str) -> str:
    """Return the name of a position. Raises ValueError for any other text: it could name a file outside the store."""
    if not _POSITION_NAME.fullmatch(name):
        raise ValueError("a position's name is hex digits")
    return name


def repair_name(uid: str) -> str:
    """Return the name of the position that notes a repair of the user's state. Its length is no other position's."""
    return hashlib.sha256(f"repair {uid}".encode()).hexdigest()[:32] + "00"


def is_repair_name(name: str) -> bool:
    """Return whether the position notes a repair: it belongs to this store's states alone."""
    return _REPAIR_NAME.fullmatch(name) is not None


def parse_position(data: bytes) -> dict[str, str | int] | None:
    """Return the position that a file or an object holds; None if it is corrupt."""
    try:
        position = read_json(data)
    except ValueError:
        return None
    return position if isinstance(position, dict) else None
