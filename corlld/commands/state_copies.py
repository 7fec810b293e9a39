"""Copies of a state store: `corlld state export` to a folder, `corlld state import` from one.

A copy is itself a state store in a folder, whatever kind of store it was made from. So it can be looked into, verified
and used like any other.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Protocol

from corlld.durable import StoreIdentity, UserState
from corlld.errors import ConfigurationError, ExitCode, FatalError, LostSwap, StateUnreadable
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
    source: CopiedStore, destination: CopiedStore, uids: Iterable[str], advance: Advance, *, replace_others: bool
) -> tuple[Counter[Copied], list[str]]:
    """Copy users' states one by one. Returns counts, and the users who were not copied, by pseudonym.

    A tombstone at the destination is never written over: the user was erased after the copy was made. A state at the
    destination is replaced only if `replace_others`, and by one whose version is no lower: versions never go back.

    Raises ConfigurationError if a daemon works on the destination meanwhile, RetriableError.
    """
    counts: Counter[Copied] = Counter()
    left: list[str] = []
    for uid in uids:
        outcome = _copy(source, destination, uid, replace_others=replace_others)
        counts[outcome] += 1
        if outcome in UNFINISHED:
            left.append(f"{uid}: {outcome}")
        advance(1)
    return counts, left


def copy_positions(source: CopiedStore, destination: CopiedStore) -> None:
    """Copy how far file sources have read, and the names of topics without ids. What is there already stays."""
    for name in source.position_names():
        position = source.load_position(name)
        if position is not None and destination.load_position(name) is None:
            destination.save_position(name, position)


def _copy(source: CopiedStore, destination: CopiedStore, uid: str, *, replace_others: bool) -> Copied:
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
        if there.erased and not state.erased:
            return Copied.ERASED_THERE
        if not replace_others:
            return Copied.KEPT
        state = _above(state, there)
    try:
        destination.save(uid, state, token)
    except LostSwap:
        raise ConfigurationError("a daemon writes to the destination meanwhile: stop it first") from None
    return Copied.COPIED


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
