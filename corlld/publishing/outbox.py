"""The outbox as the announcer sees it. A state store has one (`corlld.state`); the loop never sees it."""

from collections.abc import Iterator
from typing import Protocol

from corlld.durable import OutboxNote


class Outbox(Protocol):
    """Keeps notes on users who are still to be announced, beside the states. Thread-safe.

    A note is written only for what is not acknowledged when the offsets of its edits are committed: usually for none.
    """

    def add(self, note: OutboxNote) -> str:
        """Durably keep the note. Return its name, which no other note has or had. Raises RetriableError."""

    def names(self) -> Iterator[str]:
        """Return the names of all notes, those of other daemons too. Raises RetriableError."""

    def read(self, name: str) -> OutboxNote | None:
        """Return the note; None if there is none. Raises StateUnreadable, RetriableError."""

    def remove(self, name: str) -> None:
        """Remove the note if it is there. Raises RetriableError."""
