"""The outbox in an S3 bucket. It is apart from `folder_outbox`, since its client needs the extra `s3`."""

from collections.abc import Iterator

from corlld.durable import OutboxNote
from corlld.state.folder_outbox import OUTBOX_FOLDER, decode_note, encode_note, new_note_name, note_name
from corlld.system.object_client import ObjectClient


class BucketOutbox:
    """Implements `corlld.publishing.outbox.Outbox`: `<prefix>/outbox/<name>.json`."""

    def __init__(self, objects: ObjectClient) -> None:
        self._objects = objects

    def add(self, note: OutboxNote) -> str:
        """See the protocol."""
        name = new_note_name()
        with self._objects.retriable():
            self._objects.replace(_key(name), encode_note(note))
        return name

    def names(self) -> Iterator[str]:
        """See the protocol."""
        with self._objects.retriable():
            found = [key.removeprefix(f"{OUTBOX_FOLDER}/") for key in self._objects.keys(OUTBOX_FOLDER)]
        return filter(None, map(note_name, found))

    def read(self, name: str) -> OutboxNote | None:
        """See the protocol."""
        with self._objects.retriable():
            found = self._objects.read(_key(name))
        return None if found is None else decode_note(found.data, f"{self._objects.url}/{_key(name)}")

    def remove(self, name: str) -> None:
        """See the protocol."""
        with self._objects.retriable():
            self._objects.remove(_key(name))


def _key(name: str) -> str:
    return f"{OUTBOX_FOLDER}/{name}.json"
