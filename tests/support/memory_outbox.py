"""An outbox in memory. It promises what the outbox of a state store promises."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from corlld.durable import OutboxNote
from corlld.errors import RetriableError


@dataclass
class MemoryOutbox:
    """Keeps notes. While `away`, every call fails; `added` counts the notes that were ever written."""

    notes: dict[str, OutboxNote] = field(default_factory=dict)
    away: bool = False
    added: int = 0

    def add(self, note: OutboxNote) -> str:
        self._reach()
        name = secrets.token_hex(16)
        self.notes[name] = note
        self.added += 1
        return name

    def names(self) -> Iterator[str]:
        self._reach()
        return iter(sorted(self.notes))

    def read(self, name: str) -> OutboxNote | None:
        self._reach()
        return self.notes.get(name)

    def remove(self, name: str) -> None:
        self._reach()
        self.notes.pop(name, None)

    def _reach(self) -> None:
        if self.away:
            raise RetriableError("the store is away")
