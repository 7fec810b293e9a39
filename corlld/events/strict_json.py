"""Read JSON objects and RFC 3339 times strictly. No error holds what was read."""

import json
import re
from datetime import UTC, datetime
from typing import Any

from corlld.errors import InvalidEvent, InvalidReason

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d))", re.ASCII)


def parse_object(value: bytes) -> dict[str, Any]:
    """Read a JSON object in UTF-8. Repeated keys are refused, since readers disagree about which value counts.

    Raises InvalidEvent.
    """
    parsed: object = None
    valid = True
    try:
        parsed = json.loads(value.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):  # RecursionError: nested too deeply
        valid = False
    if not valid:
        raise InvalidEvent(InvalidReason.NOT_JSON, detail="one JSON object in UTF-8, without repeated keys")
    if not isinstance(parsed, dict):
        raise InvalidEvent(InvalidReason.NOT_AN_OBJECT, detail="one JSON object")
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError
    return result


def parse_time(value: object) -> datetime:
    """Read an RFC 3339 time with its offset, into UTC. `datetime.fromisoformat` alone allows much more.

    Raises ValueError.
    """
    match = _RFC3339.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError
    try:
        return datetime.fromisoformat(f"{match[1]}T{match[2]}".upper()).astimezone(UTC)
    except OverflowError:  # at the ends of the calendar, another offset may have no date
        raise ValueError from None
