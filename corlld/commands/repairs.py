"""A file of repaired events: each takes the place of the letter that it repairs. No message quotes a line."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from corlld.commands.events_file import event_of, numbered_lines, opened
from corlld.errors import ExitCode, FatalError, InvalidEvent, InvalidReason
from corlld.events.cloud_events import is_binary
from corlld.events.decoder import EventDecoder
from corlld.events.pseudonyms import Pseudonyms
from corlld.events.strict_json import parse_object
from corlld.records import EditEvent, EraseEvent, StoredLetter
from corlld.system.formats import refuse_other_formats

MAX_BYTES = 64 * 1024 * 1024  # repairs are kept in memory
_WITH_KEY = {"key", "event"}


@dataclass(eq=False, slots=True)
class Repair:
    """A repaired event."""

    line: int
    value: bytes
    event: EditEvent | EraseEvent
    uid: str
    used: bool = False


@dataclass(frozen=True, slots=True)
class Named:
    """Event id and user that a payload names, as far as they can be read."""

    event_id: str | None = None
    user_id: str | None = None


class Repairs:
    """Finds the repair of a letter: by the letter's key, or else by event id and user."""

    def __init__(self, name: str, names: Pseudonyms) -> None:
        self._name = name
        self._names = names
        self._all: list[Repair] = []
        self._by_key: dict[str, Repair] = {}
        self._by_event_id: defaultdict[str, list[Repair]] = defaultdict(list)

    def add(self, line: int, key: str | None, value: bytes, event: EditEvent | EraseEvent) -> None:
        """Add the event of a line. `key`: of the letter; None if the event names its letter by its id."""
        repair = Repair(line, value, event, self._names.uid(event.user_id))
        self._all.append(repair)
        if key is None:
            self._by_event_id[event.event_id].append(repair)
        else:
            self._by_key[key] = repair

    def of(self, letter: StoredLetter) -> Repair | None:
        """Return the letter's repair; None if there is none.

        Raises FatalError if the repair has another event id or user than the letter: that would be another event.
        """
        named = read_names(letter) if letter.has_payload else Named()
        uids = {letter.uid} if letter.uid is not None else set()
        if named.user_id is not None:
            uids.add(self._names.uid(named.user_id))
        if (repair := self._by_key.get(letter.key)) is not None:
            if named.event_id and repair.event.event_id != named.event_id:
                raise self._refusal(repair, "its event id is not the letter's: a replay keeps the event id")
            if uids and repair.uid not in uids:
                raise self._refusal(repair, "its user is not the letter's")
        else:
            same = self._by_event_id.get(named.event_id or "", ())
            repair = next((each for each in same if not uids or each.uid in uids), None)
        if repair is not None:
            repair.used = True
        return repair

    def refuse_unused(self) -> None:
        """Raise FatalError if a repair belongs to none of the letters that were looked at."""
        if lines := [str(repair.line) for repair in self._all if not repair.used]:
            shown = ", ".join(lines[:20]) + (", ..." if len(lines) > 20 else "")
            raise FatalError(f"{self._name}: no letter belongs to line {shown}", ExitCode.DATA)

    def _refusal(self, repair: Repair, problem: str) -> FatalError:
        return FatalError(f"{self._name}: line {repair.line}: {problem}", ExitCode.DATA)


def read_repairs(name: str, decoder: EventDecoder, names: Pseudonyms) -> Repairs:
    """Read a file of repaired events, one per line: an event, or `{"key": KEY_OF_THE_LETTER, "event": EVENT}`.

    Raises FatalError if the file can't be read or is too large, or if a line is wrong.
    """
    repairs = Repairs(name, names)
    with opened(name) as file:
        refuse_other_formats(file, name)
        total = 0
        for number, line in numbered_lines(file):
            total += len(line)
            if total > MAX_BYTES:
                raise FatalError(f"{name}: larger than {MAX_BYTES // 1024**2} MiB: divide it", ExitCode.DATA)
            try:
                key, value = _divide(line)
                event = event_of(decoder, value)
            except InvalidEvent as error:
                raise FatalError(f"{name}: line {number}: {error}", ExitCode.DATA) from None
            if event is not None:
                repairs.add(number, key, value, event)
    return repairs


def _divide(line: bytes) -> tuple[str | None, bytes]:
    """Return the letter's key, if the line names it, and the event. Raises InvalidEvent."""
    if not line.strip():
        return None, line
    fields = parse_object(line)
    if set(fields) != _WITH_KEY:
        return None, line
    if not isinstance(fields["key"], str):
        raise InvalidEvent(InvalidReason.INVALID_FIELD, field="key", detail="a text: the letter's key")
    return fields["key"], json.dumps(fields["event"]).encode()


def read_names(letter: StoredLetter) -> Named:
    """Read event id and user of a payload that may be no valid event: what can't be read is None."""
    headers = {name.lower(): raw for name, raw in letter.record_headers}
    try:
        binary = is_binary(headers)
        fields = parse_object(letter.record_value or b"{}")
    except InvalidEvent:
        return Named()
    if binary:
        source, number = (headers.get(name, b"").decode(errors="replace") for name in ("ce_source", "ce_id"))
        return _named(source, number, fields)
    if "specversion" in fields:
        data = fields.get("data")
        return _named(fields.get("source"), fields.get("id"), data if isinstance(data, dict) else {})
    return Named(_text(fields.get("event_id")), _text(fields.get("user_id")))


def _named(source: object, number: object, data: Mapping[str, Any]) -> Named:
    both = isinstance(source, str) and isinstance(number, str) and source and number
    return Named(f"{source}/{number}" if both else None, _text(data.get("user_id")))


def _text(value: object) -> str | None:
    """Return a text that can be written in UTF-8; None for anything else."""
    try:
        return value if isinstance(value, str) and value.encode() else None
    except UnicodeEncodeError:
        return None
