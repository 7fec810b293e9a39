"""Edit events as a producer writes them, and files of them."""

import json
from pathlib import Path
from typing import Any


def edit(number: int, user: str = "ann", **fields: Any) -> dict[str, Any]:
    """Make an event whose id and texts hold its number. fields: added, or in place of others."""
    return {
        "event_id": f"{user}-{number}",
        "user_id": user,
        "occurred_at": "2026-01-02T12:00:00Z",
        "prompt": "The sun\n",
        "proposed": f"rises in the west {number}.",
        "edited": f"rises in the east {number}.",
        **fields,
    }


def erasure(user: str = "ann") -> dict[str, Any]:
    """Make the event that erases a user."""
    return {"event_id": "x", "user_id": user, "occurred_at": "2026-01-02T12:00:00Z", "type": "erase"}


def lines(*events: dict[str, Any]) -> bytes:
    """Write each event as a line."""
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def write_events(file: Path, *events: dict[str, Any]) -> Path:
    """Write a file of events, and return its path."""
    file.write_bytes(lines(*events))
    return file


def append_events(file: Path, *events: dict[str, Any]) -> None:
    """Write more events at the end of a file."""
    with file.open("ab") as more:
        more.write(lines(*events))
