"""Faults that a daemon under test is given on purpose: the storms must go red with each, or they prove nothing.

Each function changes the program in its own process. Only forked daemons call them; see `launcher`.
"""

from collections.abc import Callable, Mapping
from typing import Any


def forget_applied() -> None:
    """Read every state as if it covered no offset, and remembered no event id: a replay is learnt again."""
    from dataclasses import replace

    from corlld.loop import stages, transitions

    select = transitions.select

    def mutated(ids: Any, state: Any, arrivals: Any, already: Any = None) -> Any:
        if state is not None:
            state = replace(state, applied={}, recent_event_ids=(), older_event_ids=b"")
        return select(ids, state, arrivals, already)

    stages.select = mutated


def swap_blindly() -> None:
    """Write over whatever is stored, whoever wrote it."""
    from corlld.errors import LostSwap
    from corlld.state.store import LocalFolderStore

    save = LocalFolderStore.save

    def mutated(self: Any, uid: str, state: Any, token: str) -> str:
        while True:
            try:
                return save(self, uid, state, token)
            except LostSwap:
                _, token = self.load(uid)

    LocalFolderStore.save = mutated  # type: ignore[method-assign]  # breaks the rule on purpose


def commit_before_durable() -> None:
    """Commit the position, whatever is unfinished behind it."""
    from corlld.loop.offsets import LowWatermark

    def mutated(self: Any, position: int) -> int:
        return position

    LowWatermark.committable = mutated  # type: ignore[method-assign]  # as above


def count_no_attempts() -> None:
    """Take every event for one that was never tried before."""
    from corlld.loop.attempts import AttemptJournal, Caution

    AttemptJournal.caution = lambda self, record: Caution.NONE  # type: ignore[method-assign]  # as above


def note_no_announcements() -> None:
    """Commit without a note of what is not announced yet."""
    from corlld.publishing.announcer import Announcer

    Announcer.must_note = False  # type: ignore[assignment,method-assign]  # as above


def adopt_no_notes() -> None:
    """Leave the notes of lives that died as they are."""
    from corlld.publishing.announcer import Announcer

    Announcer._adopt_notes = lambda self: None  # type: ignore[method-assign]  # as above


MUTATIONS: Mapping[str, Callable[[], None]] = {
    "forget-applied": forget_applied,
    "swap-blindly": swap_blindly,
    "commit-before-durable": commit_before_durable,
    "count-no-attempts": count_no_attempts,
    "note-no-announcements": note_no_announcements,
    "adopt-no-notes": adopt_no_notes,
}
