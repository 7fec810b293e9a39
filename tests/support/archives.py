"""Archives of edits, as the study of real edits reads them."""

import random
from pathlib import Path
from typing import Any

from tests.support.edits import write_events

WORDS = ("rain", "late", "train", "the", "again", "meets", "under", "bridge")


def archived(user: str, number: int, before: str, after: str, **fields: Any) -> dict[str, Any]:
    """Make an edit of an archive: the same sentence, with two endings. fields: added, or in place of others."""
    drawn = random.Random(f"{user} {number}")
    sentence = " ".join(drawn.choices(WORDS, k=4))
    return {
        "event_id": f"{user}-{number}",
        "user_id": user,
        "occurred_at": "2026-01-01T00:00:00Z",
        "prompt": " ".join(drawn.choices(WORDS, k=3)) + ": ",
        "proposed": f"{sentence} {before}",
        "edited": f"{sentence} {after}",
        "commit": f"{user}-{number // 2}",
        **fields,
    }


def write_archive(folder: Path, *edits: dict[str, Any]) -> Path:
    """Write an archive, and return its path."""
    return write_events(folder / "edits.jsonl", *edits)
