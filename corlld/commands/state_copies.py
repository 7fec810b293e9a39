"""Copies of a state store: `corlld state export` to a folder, `corlld state import` from one.

A copy is itself a state store in a folder, whatever kind of store it was made from. So it can be looked into, verified
and used like any other.

The journal of attempts is not copied: it belongs to a group's offsets at one time. Of dead letters that were sent and
not committed there may be copies, and crashes are counted anew.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Protocol

from corlld.durable import StoreIdentity, UserState
from corlld.errors import ConfigurationError, ExitCode, FatalError, LostSwap, StateUnreadable
from corlld.loop.event_ids import known_ids
from corlld.publishing.outbox import Outbox
from corlld.state.keys import is_repair_name
from corlld.system.progress import Advance


class Copied(StrEnum):
    """What became of a user's state; the words of the summary."""

    COPIED = "copied"
    ALREADY_THERE = "there already, the same"
    KEPT = "not copied: the user has another state there (--replace)"
    ERASED_THERE = "not copied: the user was erased there"
    UNREADABLE = "not copied: the state can't be read"


UNFINISHED = (Copied.KEPT, Copied.ERASED_THERE, Copied.UNREADABLE)


class CopiedStore(Protocol):
    """A state store, as far as copies need it; see `StateStore` and `PositionStore`."""

    @property
    def outbox(self) -> Outbox: ...

    def open(self, identity: StoreIdentity, *, must_exist: bool) -> None: ...

    def identity(self) -> StoreIdentity | None: ...

    def load(self, uid: str) -> tuple[UserState | None, str]: ...

    def save(self, uid: str, state: UserState, token: str) -> str: ...

    def position_names(self) -> Iterator[str]: ...

    def load_position(self, name: str) -> Mapping[str, str | int] | None: ...

    def save_position(self, name: str, position: Mapping[str, str | int]) -> None: ...


def open_copy(source: CopiedStore, destination: CopiedStore, *, where: str) -> None:
    """Make the destination a store of the same owner as the source, or check that it is one.

    Args:
        source: must be a store.
        destination: a store of the same owner, or none yet.
        where: names the source in messages.

    Raises FatalError if the source is no store, ConfigurationError if the destination belongs to other settings.
    """
    owner = source.identity()
    if owner is None:
        raise FatalError(f"{where} is not a state store: store.json is not there", ExitCode.DATA)
    destination.open(owner, must_exist=False)


def copy_states(
    source: CopiedStore,
    destination: CopiedStore,
    uids: Iterable[str],
    advance: Advance,
    *,
    replace_others: bool,
    hashed: Callable[[str, str], bytes] | None,
) -> tuple[Counter[Copied], list[str]]:
    """Copy users' states one by one. Returns counts, and the users who were not copied, by pseudonym.

    A state from before an erasure at the destination is never copied, also if the user came back. A state at the
    destination is replaced only if `replace_others`, and by one whose version is no lower: versions never go back.

    Args:
        hashed: as for `EventIds`; None without the secret. Then an erasure of a user without a version is not seen once
            the user came back.

    Raises ConfigurationError if a daemon works on the destination meanwhile, RetriableError.
    """
    counts: Counter[Copied] = Counter()
    left: list[str] = []
    for uid in uids:
        outcome = _copy(source, destination, uid, replace_others=replace_others, hashed=hashed)
        counts[outcome] += 1
        if outcome in UNFINISHED:
            left.append(f"{uid}: {outcome}")
        advance(1)
    return counts, left


def copy_positions(source: CopiedStore, destination: CopiedStore) -> None:
    """Copy how far file sources have read, and the names of topics without ids. What is there already stays.

    Notes of repairs are left out: they belong to the states of the source.
    """
    for name in itertools.filterfalse(is_repair_name, source.position_names()):
        position = source.load_position(name)
        if position is not None and destination.load_position(name) is None:
            destination.save_position(name, position)


def copy_notes(source: CopiedStore, destination: CopiedStore) -> list[str]:
    """Copy the notes on users who are still to be announced. Returns a sentence for each note that can't be read.

    A note that comes too late does no harm: the newest version is announced once more.
    """
    there = {destination.outbox.read(name) for name in destination.outbox.names()}
    left: list[str] = []
    for name in source.outbox.names():
        try:
            note = source.outbox.read(name)
        except StateUnreadable as error:
            left.append(f"not copied: {error}")
            continue
        if note is not None and note not in there:
            destination.outbox.add(note)
    return left


def _copy(
    source: CopiedStore,
    destination: CopiedStore,
    uid: str,
    *,
    replace_others: bool,
    hashed: Callable[[str, str], bytes] | None,
) -> Copied:
    try:
        state, _ = source.load(uid)
        there, token = destination.load(uid)
    except StateUnreadable:
        return Copied.UNREADABLE
    if state is None:
        return Copied.UNREADABLE  # it went away meanwhile: a store never removes a user
    if there is not None:
        if same_state(state, there):
            return Copied.ALREADY_THERE
        if _erased_since(state, there, hashed):
            return Copied.ERASED_THERE
        if not replace_others:
            return Copied.KEPT
        state = _above(state, there)
    try:
        destination.save(uid, state, token)
    except LostSwap:
        raise ConfigurationError("a daemon writes to the destination meanwhile: stop it first") from None
    return Copied.COPIED


def _erased_since(state: UserState, there: UserState, hashed: Callable[[str, str], bytes] | None) -> bool:
    """Return whether `there` shows an erasure of what is in `state`.

    An erasure that found no new version leaves the state's ids as hashes. So does a window of recent ids that went on:
    that is taken for an erasure too, if the state has no version that was not erased.
    """
    if (there.erased and not state.erased) or there.erased_through > state.erased_through:
        return True
    if hashed is None or state.version > there.erased_through:
        return False
    known = known_ids(replace(there, recent_event_ids=()), hashed)
    return any(known(event_id) for event_id in state.recent_event_ids)


def same_state(one: UserState, other: UserState) -> bool:
    """Return whether two states are the same, their tensors bit for bit."""
    from corlld.state.snapshot import encode

    return encode(one) == encode(other)


def _above(state: UserState, there: UserState) -> UserState:
    """Return the state with a version that is no lower than the one there.

    Its next version is then above all that were ever out. Until then nothing is announced: the version that is out
    holds other tensors.
    """
    if state.version >= there.version:
        return state
    return replace(state, version=there.version, release=None)
