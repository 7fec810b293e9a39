"""Keeps in the store which users are being repaired: from where on their records are to be sent, and by which repair.

The note of a repair, the state that it stores and the records that it sends have the same id. So a note says nothing of
a state that did not come of the repair, or that was erased since.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from corlld.commands.repair_findings import Findings, Repair
from corlld.durable import UserState
from corlld.errors import StateUnreadable
from corlld.state.keys import repair_name

_ID = "repair"  # beside the places in a note; their names have a slash


class NotingStore(Protocol):
    """A state store, as far as notes of repairs need it; see `StateStore` and `PositionStore`."""

    def load_header(self, uid: str) -> UserState | None: ...

    def load_position(self, name: str) -> Mapping[str, str | int] | None: ...

    def save_position(self, name: str, position: Mapping[str, str | int]) -> None: ...

    def remove_position(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class RepairNote:
    """The note of an interrupted repair.

    places: from where on it had to send the user's records, by `SourcePartition.key`.
    id: of the repair; None if an older corlld has begun it.
    """

    places: Mapping[str, int]
    id: str | None = None

    def belongs_to(self, state: UserState | None) -> bool:
        """Return whether the state came of the repair, and lacks what it has not sent."""
        return self.id is None or (state is not None and state.came_of(self.id))


def noted_of(store: NotingStore, uid: str) -> RepairNote | None:
    """Return the note of an interrupted repair; None if none was interrupted."""
    if (position := store.load_position(repair_name(uid))) is None:
        return None
    places = {key: int(offset) for key, offset in position.items() if key != _ID}
    return RepairNote(places, str(position[_ID]) if _ID in position else None)


def note(store: NotingStore, repair: Repair) -> None:
    """Note in the store from where on the user's records are to be sent, for a run after an interruption."""
    named = {} if repair.id is None else {_ID: repair.id}
    store.save_position(repair_name(repair.uid), {**repair.places, **named})


def take_out_passed(store: NotingStore, findings: Findings) -> tuple[list[str], list[str]]:
    """Take out the repairs whose states were replaced since they were restored.

    A state that can't be read by now tells nothing, and a repair without an id neither: the user stays. Raises
    RetriableError.

    Returns the users who were erased since, and the users whose states something stored that knows nothing of repairs:
    an import, or an older corlld.
    """
    erased: list[str] = []
    overwritten: list[str] = []
    for uid, repair in list(findings.repairs.items()):
        if repair.id is None:
            continue
        try:
            header = store.load_header(uid)
        except StateUnreadable:
            continue
        if header is not None and header.came_of(repair.id):
            continue
        del findings.repairs[uid]
        (overwritten if is_overwritten(header) else erased).append(uid)
    return erased, overwritten


def is_overwritten(state: UserState | None) -> bool:
    """Return whether something has stored this state that knows nothing of repairs, after a repair had restored it."""
    return state is not None and state.repair is None and not state.erased


def finish(store: NotingStore, uids: Iterable[str]) -> None:
    """Remove the notes of repairs of these users: everything was sent, or nothing has to be."""
    for uid in uids:
        store.remove_position(repair_name(uid))
