"""An archive of many users as the archive of one, and the adapter that is learnt from it as a folder of PEFT's format.

`corlld replay --shared` needs both. The order of the events stays. It is not known here how they are learnt.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from corlld.errors import ExitCode, FatalError, InvalidEvent
from corlld.events.cloud_events import from_structured
from corlld.events.decoder import EventDecoder
from corlld.events.strict_json import parse_object
from corlld.records import EditEvent
from corlld.system.durable_files import SHARED, create, make_folders

EVERYONE = "everyone"  # the user_id of all events
_CONFIG_FILE = "adapter_config.json"  # a version that has none is not whole


def without_erased(lines: Iterable[bytes], decoder: EventDecoder) -> list[bytes]:
    """Return the lines that may be learnt from, each event once. Invalid lines stay: the loop counts them.

    An erasure takes away the edits of its user before it, and itself: a shared adapter can't forget one user later. The
    ids of these edits stay known, so that an edit that was erased does not come back if it is delivered again.
    """
    invalid: dict[int, bytes] = {}
    by_user: defaultdict[str, list[tuple[int, bytes]]] = defaultdict(list)
    known: defaultdict[str, set[str]] = defaultdict(set)  # ids per user, erased ones included
    for number, line in enumerate(lines):
        try:
            event = decoder.decode(None, line, ())
        except InvalidEvent:
            invalid[number] = line
            continue
        if not isinstance(event, EditEvent):
            by_user.pop(event.user_id, None)
        elif event.event_id not in known[event.user_id]:
            known[event.user_id].add(event.event_id)
            by_user[event.user_id].append((number, line))
    kept = invalid | dict(place for places in by_user.values() for place in places)
    return [line for _, line in sorted(kept.items())]


def as_one_user(lines: Iterable[bytes], decoder: EventDecoder) -> list[bytes]:
    """Return the same edits, all of one user. Event ids become numbers: two users' ids may be equal.

    The version that wrote a draft is left out, since it was another adapter's.
    """
    written = []
    for number, line in enumerate(lines):
        try:
            event = decoder.decode(None, line, ())
        except InvalidEvent:
            written.append(line)
            continue
        fields = parse_object(line)
        if "specversion" in fields:
            fields = dict(from_structured(fields).data or {})
        fields.pop("adapter_version", None)
        own = {"type": "edit", "event_id": str(number), "user_id": EVERYONE}
        time = "" if event.occurred_at is None else event.occurred_at.isoformat()
        written.append(json.dumps({**fields, **own, "occurred_at": time}).encode())
    return written


def refuse_used(folder: Path) -> None:
    """Raise FatalError if the folder of an export holds anything. It is not made here."""
    try:
        used = folder.exists() and any(folder.iterdir())
    except OSError as error:
        raise FatalError(f"--export: {folder} can't be read: {error.strerror}", ExitCode.CANNOT_WRITE) from None
    if used:
        raise FatalError(f"--export: {folder} is not empty, needed: a new folder", ExitCode.USAGE)


def export(published: Path, folder: Path) -> str:
    """Copy the only version below `published` to the folder, its config last. Return the digest of its tensors.

    Raises FatalError if there is no version, or the folder can't be written.
    """
    found = list(published.glob(f"*/*/{_CONFIG_FILE}"))
    if not found:
        raise FatalError("--export: no edit of the archive could be learnt, so that there is no adapter", ExitCode.DATA)
    version = found[0].parent
    try:
        make_folders(folder, SHARED)
        for file in sorted(version.iterdir(), key=lambda file: file.name == _CONFIG_FILE):
            create(folder / file.name, file.read_bytes(), SHARED)
    except OSError as error:
        raise FatalError(f"--export: {folder} can't be written: {error.strerror}", ExitCode.CANNOT_WRITE) from None
    return str(json.loads((version / "manifest.json").read_bytes())["digest"])
