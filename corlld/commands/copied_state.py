"""The copy of one user's state from one store to another: which state is copied, and which stays as it is there.

An erasure at the destination is never undone, and versions never go back.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from enum import StrEnum
from functools import partial
from typing import Protocol

from corlld.durable import StoreIdentity, UserState
from corlld.errors import ConfigurationError, LostSwap, RetriableError, StateUnreadable
from corlld.loop.event_ids import known_ids
from corlld.publishing.outbox import Outbox
from corlld.state.tombstones import has_passed


class Copied(StrEnum):
    """What became of a user's state; the words of the summary."""

    COPIED = "copied"
    ERASED_AGAIN = "is erased in the backup, and has a state here: erased again"
    ALREADY_THERE = "there already, the same"
    KEPT = "not copied: the user has another state there (--replace)"
    ERASED_THERE = "not copied: the user was erased there"
    UNREADABLE = "not copied: the state can't be read"
    OUT_OF_REACH = "not copied: the state can't be read or written now"
    UNREADABLE_THERE = "not copied: the state there can't be read (`corlld state repair`, or --replace)"


class CopiedStore(Protocol):
    """A state store, as far as copies need it; see `StateStore` and `PositionStore`."""

    @property
    def outbox(self) -> Outbox: ...

    def open(self, identity: StoreIdentity, *, must_exist: bool) -> None: ...

    def identity(self) -> StoreIdentity | None: ...

    def load(self, uid: str) -> tuple[UserState | None, str]: ...

    def load_header(self, uid: str) -> UserState | None: ...

    def check_readable(self, uid: str) -> None: ...

    def save(self, uid: str, state: UserState, token: str) -> str: ...

    def restore(self, uid: str, state: UserState, token: str) -> str: ...

    def previous(self, uid: str) -> tuple[UserState | None, str]: ...

    def newest_token(self, uid: str) -> str: ...

    def position_names(self) -> Iterator[str]: ...

    def load_position(self, name: str) -> Mapping[str, str | int] | None: ...

    def save_position(self, name: str, position: Mapping[str, str | int]) -> None: ...


def copy_state(
    source: CopiedStore,
    destination: CopiedStore,
    uid: str,
    *,
    replace_others: bool,
    hashed: Callable[[str, str], bytes] | None,
) -> Copied:
    """Copy the state, if it may be copied; see `copy_states`. Returns what became of it.

    Raises ConfigurationError if a daemon works on the destination meanwhile, RetriableError if a store is away.
    """
    try:
        state, _ = source.load(uid)
    except StateUnreadable:
        return Copied.UNREADABLE
    if state is None:
        return Copied.UNREADABLE  # it went away meanwhile: a store never removes a user
    save: Callable[[str, UserState, str], str] = destination.save
    header = None
    try:
        there, token = _load_there(destination, uid)
        is_same = there is not None and same_state(state, there)
    except StateUnreadable:
        if not replace_others:
            return Copied.UNREADABLE_THERE
        there, token = _readable_there(destination, uid)
        save, is_same = partial(_restore_over, destination), False
        header = _header_there(destination, uid)
        if header is not None and _erased_since(state, header, hashed):
            return Copied.ERASED_THERE
    if there is not None and not is_same:
        if _erased_since(state, there, hashed):
            return Copied.ERASED_THERE
        if not replace_others:
            return Copied.KEPT
        state = _above(state, there)
    try:
        if not is_same:
            token = save(uid, state, token)
        _forget_erased(destination, state, token, hashed)
    except LostSwap:
        raise ConfigurationError("a daemon writes to the destination meanwhile: stop it first") from None
    if is_same:
        return Copied.ALREADY_THERE
    was = there or header
    return Copied.ERASED_AGAIN if state.erased and was is not None and not was.erased else Copied.COPIED


def _load_there(destination: CopiedStore, uid: str) -> tuple[UserState | None, str]:
    """Return what the destination loads. Raises StateUnreadable also if its disk can't read this state alone."""
    try:
        return destination.load(uid)
    except RetriableError:
        destination.check_readable(uid)
        raise


def _readable_there(destination: CopiedStore, uid: str) -> tuple[UserState | None, str]:
    """Return what can still be read of a user whose newest state can't, and that state's token."""
    try:
        return destination.previous(uid)
    except StateUnreadable:
        return None, destination.newest_token(uid)


def _header_there(destination: CopiedStore, uid: str) -> UserState | None:
    """Return the header of a state that can't be read; None if it can't be read either.

    No checksum covers it alone. So it can only keep a state from being copied: an erasure that it shows counts.
    """
    try:
        return destination.load_header(uid)
    except (StateUnreadable, RetriableError):
        return None


def _restore_over(destination: CopiedStore, uid: str, state: UserState, token: str) -> str:
    """Store a state over one that can't be read. Returns the new token.

    Raises RetriableError if the state there can be read by now: an error of the disk may pass, and the state may show
    an erasure that nothing else shows.
    """
    with contextlib.suppress(StateUnreadable):
        _load_there(destination, uid)
        raise RetriableError("the state there can be read again, and stays: import once more")
    return destination.restore(uid, state, token)


def _forget_erased(
    destination: CopiedStore, state: UserState, token: str, hashed: Callable[[str, str], bytes] | None
) -> None:
    """Store the state once more if the generation before it may hold what the state has erased: it is both then.

    A user who was erased and came back has no tombstone in a copy that was brought up to date later.
    """
    if state.erased or not (state.erased_through or state.older_event_ids):
        return  # beside a tombstone there is no generation before
    try:
        before, _ = destination.previous(state.uid)
    except StateUnreadable:
        pass  # nobody knows what it holds
    else:
        if before is None or not _erased_since(before, state, hashed):
            return
    destination.save(state.uid, state, token)


def _erased_since(state: UserState, there: UserState, hashed: Callable[[str, str], bytes] | None) -> bool:
    """Return whether `there` shows an erasure of what is in `state`.

    An erasure that found no new version leaves the state's ids as hashes. So does a window of recent ids that went on:
    that is taken for an erasure too, if the state has no version that was not erased.
    """
    if there.erased and not state.erased and not has_passed(state, there):
        return True
    if there.erased_through > state.erased_through:
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
    through = there.version if state.erased else state.erased_through  # a tombstone withdraws all that are out
    return replace(state, version=there.version, release=None, erased_through=through)
