"""Dead letters for the eye and for other programs: counts by reason, and single letters. Never a text, unless asked."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.table import Column, Table

from corlld.commands.letter_selection import place_of
from corlld.records import StoredLetter

COUNTED_USERS = 100_000  # per reason; memory is bounded


@dataclass
class ReasonCounts:
    """Counts the letters of a reason."""

    letters: int = 0
    without_payload: int = 0
    without_user: int = 0
    users: set[str] = field(default_factory=set)
    oldest: StoredLetter | None = None
    newest: StoredLetter | None = None

    def add(self, letter: StoredLetter) -> None:
        """Add a letter. Letters of a file have no times: they come in their order."""
        self.letters += 1
        self.without_payload += not letter.has_payload
        self.without_user += letter.uid is None
        if letter.uid is not None and len(self.users) < COUNTED_USERS:
            self.users.add(letter.uid)
        if self.oldest is None or (letter.stored_at or 0.0) < (self.oldest.stored_at or 0.0):
            self.oldest = letter
        if self.newest is None or (letter.stored_at or 0.0) >= (self.newest.stored_at or 0.0):
            self.newest = letter

    def row(self) -> dict[str, Any]:
        """Return the counts for JSON."""
        return {
            "letters": self.letters,
            "without_payload": self.without_payload,
            "without_user": self.without_user,
            "users": len(self.users),
            "users_or_more": len(self.users) >= COUNTED_USERS,
            "oldest": _stamp(self.oldest),
            "newest": _stamp(self.newest),
        }


def count(letters: Iterable[StoredLetter]) -> dict[str, ReasonCounts]:
    """Count the letters by reason, the most frequent reason first. Memory does not grow with their number."""
    counts: dict[str, ReasonCounts] = {}
    for letter in letters:
        counts.setdefault(letter.reason, ReasonCounts()).add(letter)
    return dict(sorted(counts.items(), key=lambda item: (-item[1].letters, item[0])))


def counts_table(counts: dict[str, ReasonCounts]) -> Table:
    """Return a line per reason. first, last: in the order in which they were stored, which offsets may not have."""
    table = Table(
        *(Column(name, justify="left" if name == "reason" else "right") for name in ("reason", "letters", "users")),
        Column("first", overflow="fold"),
        Column("last", overflow="fold"),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for reason, counted in counts.items():
        users = f"{len(counted.users):,}" + ("+" if len(counted.users) >= COUNTED_USERS else "")
        table.add_row(printable(reason), f"{counted.letters:,}", users, _short(counted.oldest), _short(counted.newest))
    return table


def letter_row(letter: StoredLetter, *, payload: bool) -> dict[str, Any]:
    """Return the letter for JSON.

    payload: with the record's own key, headers and value, which may hold the user's id and texts. Bytes that are no
    text in UTF-8 stand in base64, as `payload_base64`.
    """
    row: dict[str, Any] = {
        "key": letter.key,
        "place": place_of(letter),
        "reason": letter.reason,
        "uid": letter.uid,
        "stored_at": _time(letter),
        "has_payload": letter.has_payload,
        "headers": dict(letter.headers),
    }
    if payload and letter.has_payload:
        row["record_key"] = None if letter.record_key is None else letter.record_key.decode(errors="backslashreplace")
        row["record_headers"] = {name: raw.decode(errors="backslashreplace") for name, raw in letter.record_headers}
        row |= _text_or_base64(letter.record_value)
    return row


def letter_lines(letter: StoredLetter, *, payload: bool) -> list[str]:
    """Return the letter as lines for a terminal. What could steer the terminal is escaped."""
    row = letter_row(letter, payload=payload)
    headers, record_headers = row.pop("headers"), row.pop("record_headers", {})
    fields = [(name, value) for name, value in row.items() if name != "key"]
    fields += [*headers.items(), *((f"record header {name}", value) for name, value in record_headers.items())]
    return [printable(letter.key), *(f"  {printable(name)}: {printable(str(value))}" for name, value in fields)]


def printable(text: str) -> str:
    """Return the text with control characters escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _text_or_base64(value: bytes | None) -> dict[str, str | None]:
    if value is None:
        return {"payload": None}
    try:
        return {"payload": value.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(value).decode()}


def _stamp(letter: StoredLetter | None) -> dict[str, Any] | None:
    return None if letter is None else {"place": place_of(letter), "stored_at": _time(letter)}


def _time(letter: StoredLetter) -> str | None:
    if letter.stored_at is None:
        return None
    return datetime.fromtimestamp(letter.stored_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _short(letter: StoredLetter | None) -> str:
    if letter is None:
        return "-"
    return printable(place_of(letter) + (f" {time}" if (time := _time(letter)) else ""))
