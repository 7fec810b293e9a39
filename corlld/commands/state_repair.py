"""`corlld state repair`: puts the generation before in place of a state that can't be read, and sends what it lacks.

A repair has five steps: note in the store where the generation before ends, store that generation as the newest, wait
until the group has committed what was in the user's partitions by then, send the user's records from there on to the
input once more, remove the note. Until the state is stored, a daemon that runs makes dead letters of the records, and
commits them later. A repair that was interrupted finds its note, and goes on. What was sent twice is learnt once, by
its event id. What was sent to a state that did not come of the repair, or that was erased since, is passed over.
"""

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol

from corlld.commands.out_of_reach import OutOfReach
from corlld.commands.repair_findings import Findings, Repair
from corlld.commands.repair_notes import NotingStore, RepairNote, finish, is_overwritten, note, noted_of
from corlld.durable import UserState
from corlld.errors import ExitCode, FatalError, LostSwap, RetriableError, StateUnreadable
from corlld.system.progress import Advance

_AND_ERASE = ". If the user was erased since the backup, send the erasure again"
_FROM_AFTER_IT = (
    " from after the erasure; without such a backup move the user's folder out of the store, and send the erasure again"
)


class RepairedStore(NotingStore, Protocol):
    """A state store, as far as repairs need it; see `StateStore` and `PositionStore`."""

    def load(self, uid: str) -> tuple[UserState | None, str]: ...

    def check_readable(self, uid: str) -> None: ...

    def newest_token(self, uid: str) -> str: ...

    def restore(self, uid: str, state: UserState, token: str) -> str: ...

    def previous(self, uid: str) -> tuple[UserState | None, str]: ...


def look(store: RepairedStore, uids: Iterable[str], advance: Advance) -> Findings:
    """Find the users whose states can't be read, and those whose repair was interrupted. Nothing is changed.

    Raises RetriableError if the store is away.
    """
    findings = Findings()
    out_of_reach = OutOfReach()
    for uid in uids:
        try:
            _look_at(store, uid, findings)
            out_of_reach.served()
        except RetriableError as error:
            findings.hopeless.append(out_of_reach.note(uid, error))
        advance(1)
    out_of_reach.finish()
    return findings


def _look_at(store: RepairedStore, uid: str, findings: Findings) -> None:
    try:
        state, _ = store.load(uid)
    except StateUnreadable as error:
        _look_before(store, uid, findings, error.problem, damaged=False)
        return
    except RetriableError:
        if (problem := _damage_of(store, uid)) is None:
            raise
        _look_before(store, uid, findings, problem, damaged=True)
        return
    if (noted := noted_of(store, uid)) is None:
        return
    if noted.belongs_to(state):
        findings.repairs[uid] = Repair(uid, noted.places, id=noted.id, repairs=None if state is None else state.repair)
    elif is_overwritten(state):
        findings.stale[uid] = (
            "the state is not what an interrupted repair has put in place: it put nothing in place, or an import or an "
            "older corlld has stored a state since. What that repair had not sent is not sent any more"
        )
    else:
        findings.stale[uid] = "an interrupted repair has nothing more to do"


def _look_before(store: RepairedStore, uid: str, findings: Findings, problem: str, *, damaged: bool) -> None:
    header = _unchecked_header(store, uid, damaged=damaged)
    try:
        before, token = store.previous(uid)
    except StateUnreadable as error:
        findings.hopeless.append(
            f"{uid}: {problem}; the generation before can't be read either: {error}; only a backup helps: "
            f"{_from_a_backup(uid)}"
        )
        return
    if header is not None and _erased_since(before, header):
        findings.hopeless.append(
            f"{uid}: the header of the state says that the user was erased: {_from_a_backup(uid)}{_FROM_AFTER_IT}"
        )
    elif before is None:
        findings.hopeless.append(
            f"{uid}: there is no generation before, as of an erased user: {_from_a_backup(uid)}{_AND_ERASE}"
        )
    else:
        noted = noted_of(store, uid)
        if noted is None or not noted.belongs_to(before):
            noted = RepairNote({}, secrets.token_hex(8))  # else the generation before lacks what was not sent yet, too
        places = {key: min(offset, before.applied.get(key, offset)) for key, offset in noted.places.items()}
        findings.repairs[uid] = Repair(
            uid,
            {**before.applied, **places},
            replace(before, repair=_with(before.repair, noted.id)),
            token,
            damaged,
            header_lost=header is None,
            found={} if header is None else _added_partitions(before, header),
            id=noted.id,
            repairs=before.repair,
            problem=problem,
        )


def _from_a_backup(uid: str) -> str:
    """Return the command for this user: without `--uid` an import replaces every user."""
    return f"`corlld state import FOLDER --replace --uid {uid}` takes the state from a backup"


def _with(repairs: str | None, new: str | None) -> str | None:
    """Return these ids of repairs, and the new one. None: a repair that an older corlld has begun."""
    return repairs if new is None else " ".join(dict.fromkeys((*(repairs or "").split(), new)))


def _erased_since(before: UserState | None, header: UserState) -> bool:
    """Return whether the state is a tombstone, or shows an erasure that the generation before does not know.

    No checksum covers the header alone: it can keep a state from being repaired, and never has one repaired.
    """
    if before is None:
        return header.erased
    return header.erased_through > before.erased_through or (header.erased and not before.erased)


def _unchecked_header(store: RepairedStore, uid: str, *, damaged: bool) -> UserState | None:
    """Return the header of a state that can't be read; None if it can't be read either. Raises RetriableError."""
    try:
        return store.load_header(uid)
    except StateUnreadable:
        return None
    except RetriableError:
        if not damaged:
            raise
        return None


def _added_partitions(before: UserState, header: UserState) -> dict[str, int]:
    """Return the beginning of each partition that the header names and the generation before does not.

    No checksum covers the header alone, so a flipped bit may be in a name: what is no number is left out.
    """
    added = (key for key in header.applied if key not in before.applied)
    return {key: 0 for key in added if key.rpartition("/")[2].isdecimal()}


def restore(store: RepairedStore, findings: Findings) -> Iterator[str]:
    """Note each repair in the store, and store the generation before as the newest. Yields each user when it is done.

    A user whose state can't be written now is hopeless from then on.

    Raises FatalError if another process stored a state of the user meanwhile, RetriableError if the store is away.
    """
    out_of_reach = OutOfReach()
    for repair in list(findings.repairs.values()):
        try:
            if repair.state is not None:
                if repair.damaged and _damage_of(store, repair.uid) is None:
                    findings.hopeless.append(f"{repair.uid}: the state can be read again, and stays: look again")
                    del findings.repairs[repair.uid]
                    continue
                _restore_one(store, repair, repair.state)
        except RetriableError as error:
            findings.hopeless.append(out_of_reach.note(repair.uid, error))
            del findings.repairs[repair.uid]
            continue
        except LostSwap:
            raise FatalError(
                f"the state of {repair.uid} was stored by another process meanwhile: look again", ExitCode.DATA
            ) from None
        out_of_reach.served()
        yield repair.uid
    out_of_reach.finish()


def _restore_one(store: RepairedStore, repair: Repair, state: UserState) -> None:
    """Note the repair, and store the generation before. Raises as the store does.

    If a damaged state is still the newest afterwards, the note goes: the damage may pass, and the state lacks nothing
    then. A note from before stays: it belongs to an earlier repair.
    """
    was_noted = noted_of(store, repair.uid) is not None
    note(store, repair)
    try:
        store.restore(repair.uid, state, repair.token)
    except RetriableError:
        if repair.damaged and not was_noted and store.newest_token(repair.uid) == repair.token:
            finish(store, [repair.uid])
        raise


def _damage_of(store: RepairedStore, uid: str) -> str | None:
    """Return why the disk does not give the state; None if it does by now, since its error may pass.

    Raises RetriableError.
    """
    try:
        store.check_readable(uid)
    except StateUnreadable as error:
        return error.problem
    return None
