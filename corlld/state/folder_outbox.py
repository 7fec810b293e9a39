"""The outbox in a folder: notes on users who are still to be announced. They outlive the process that wrote them.

A note is one small JSON file, `outbox/<32 hex digits>.json` of the local folder or of the bucket. It is written once,
never changed, and removed by whoever has announced all of its users. It holds pseudonyms and a time, and no text.
"""

import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from corlld.durable import OutboxNote
from corlld.errors import StateUnreadable
from corlld.state.keys import is_uid
from corlld.system.durable_files import PERSONAL, fsync_folder, link_new, retriable, write_whole
from corlld.system.stored_json import read_json

OUTBOX_FOLDER = "outbox"

_NOTE_FILE = re.compile(r"([0-9a-f]{32})\.json")


class FolderOutbox:
    """Implements `corlld.publishing.outbox.Outbox` in a folder.

    Args:
        path: of the notes; made when the store is opened.
        temporary: on the same filesystem; what a kill leaves there is removed by the store.
    """

    def __init__(self, path: Path, temporary: Path) -> None:
        self._path = path
        self._temporary = temporary

    def add(self, note: OutboxNote) -> str:
        """See the protocol."""
        name = new_note_name()
        with retriable(self._path):
            temporary = self._temporary / f"note-{name}"
            write_whole(temporary, encode_note(note), PERSONAL)
            link_new(temporary, self._file(name))
        return name

    def names(self) -> Iterator[str]:
        """See the protocol."""
        with retriable(self._path):
            try:
                found = sorted(path.name for path in self._path.iterdir())
            except FileNotFoundError:
                found = []  # a store from before the outbox, read and not opened
        return filter(None, map(note_name, found))

    def read(self, name: str) -> OutboxNote | None:
        """See the protocol."""
        with retriable(self._path):
            try:
                data = self._file(name).read_bytes()
            except FileNotFoundError:
                return None
        return decode_note(data, self._file(name))

    def remove(self, name: str) -> None:
        """See the protocol."""
        with retriable(self._path):
            self._file(name).unlink(missing_ok=True)
            fsync_folder(self._path)

    def _file(self, name: str) -> Path:
        return self._path / f"{name}.json"


def new_note_name() -> str:
    """Return a name that no note has."""
    return secrets.token_hex(16)


def note_name(file: str) -> str | None:
    """Return the name of the note in a file of this name; None if it is no note."""
    match = _NOTE_FILE.fullmatch(file)
    return match[1] if match else None


def encode_note(note: OutboxNote) -> bytes:
    """Return the bytes of a note."""
    return json.dumps({"since": note.since, "uids": list(note.uids)}).encode()


def decode_note(data: bytes, where: object) -> OutboxNote:
    """Return the note. Raises StateUnreadable, which names `where` the note is."""
    try:
        fields = read_json(data)
        since, uids = float(fields["since"]), tuple(map(str, fields["uids"]))
    except (ValueError, TypeError, KeyError):
        raise StateUnreadable(f"{where} is no note of the outbox") from None
    if not all(map(is_uid, uids)):
        raise StateUnreadable(f"{where} is no note of the outbox")
    return OutboxNote(since, uids)
