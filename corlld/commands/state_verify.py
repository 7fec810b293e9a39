"""Reads every state as the daemon would, and each newest published version: `corlld state verify`."""

import hashlib
from collections.abc import Collection, Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from corlld.commands.out_of_reach import OutOfReach
from corlld.commands.state_views import newer_out
from corlld.durable import UserState
from corlld.errors import RetriableError, StateUnreadable, UserTrouble
from corlld.publishing.target import PublishedVersion
from corlld.system.progress import Advance
from corlld.system.stored_json import read_json

TENSORS_NAME, CONFIG_NAME = "adapter_model.safetensors", "adapter_config.json"
SHOWN_PROBLEMS = 100


class VerifiedStore(Protocol):
    """A state store, as far as it is verified; see `StateStore`."""

    def load(self, uid: str) -> tuple[UserState | None, str]: ...

    def previous(self, uid: str) -> tuple[UserState | None, str]: ...

    def uids(self) -> Iterator[str]: ...

    def left_of_erased(self, state: UserState, token: str) -> list[str]: ...


class VerifiedTarget(Protocol):
    """A publishing target, as far as it is verified; see `Target`."""

    def get(self, uid: str, version: int) -> PublishedVersion | None: ...

    def newest(self, uid: str) -> int: ...

    def uids(self) -> Iterator[str]: ...


@dataclass
class Verified:
    """What was found. problems: a sentence each, which names the user by pseudonym."""

    users: int = 0
    erased: int = 0
    versions: int = 0
    not_out: int = 0  # the daemon publishes them at the users' next edits
    problems: list[str] = field(default_factory=list)


def verify(
    store: VerifiedStore,
    target: VerifiedTarget | None,
    uids: Collection[str],
    advance: Advance,
    *,
    everybody: bool = False,
) -> Verified:
    """Verify states, and the newest published version of each. Nothing is changed.

    Args:
        store: need not be opened.
        target: None: published versions are not looked at.
        uids: the users.
        advance: moved by each user.
        everybody: `uids` are all users of the store, so whoever else has versions at the target has no state.

    Raises RetriableError if the store or the target is away.
    """
    found = Verified()
    out_of_reach = OutOfReach()
    for uid in uids:
        found.users += 1
        try:
            state, token = store.load(uid)
            if state is not None:
                found.erased += state.erased
                left = store.left_of_erased(state, token)
                found.problems += (f"{uid}: {file} is there still, and may hold what was erased" for file in left)
                _verify_before(store, state, found)
                _verify_versions(store, state, target, found)
        except RetriableError as error:
            found.problems.append(out_of_reach.note(uid, error))
        except UserTrouble as error:  # a torn state, or a manifest that can't be understood
            found.problems.append(f"{uid}: {error}")
            out_of_reach.served()
        else:
            out_of_reach.served()
        advance(1)
    out_of_reach.finish()
    if everybody and target is not None:
        found.problems += _without_a_state(store, target, set(uids))
    return found


def _verify_before(store: VerifiedStore, state: UserState, found: Verified) -> None:
    """Read the generation before, which a repair would put in the state's place. A tombstone has none."""
    if state.erased:
        return
    try:
        store.previous(state.uid)
    except StateUnreadable as error:
        found.problems.append(
            f"{state.uid}: the state is sound, but the generation before it can't be read: {error}. A repair would "
            "need that one: until the next state of the user is stored, only a backup mends the state if it is damaged"
        )


def _without_a_state(store: VerifiedStore, target: VerifiedTarget, uids: Container[str]) -> Iterator[str]:
    """Yield a sentence for each other user who has versions at the target, and no state."""
    others = {uid: newest for uid in target.uids() if uid not in uids and (newest := target.newest(uid))}
    came_since = set(store.uids()) if others else set()
    for uid, newest in sorted(others.items()):
        if uid not in came_since:
            yield (
                f"{uid}: adapter version {newest} is published, and this store has no state of the user. If the "
                "version is another store's, move it to another folder: no two stores may publish to one. If not: "
                f"{_older(newest)}"
            )


def _older(newest: int) -> str:
    return (
        f"was an older backup restored? The user's next version will be {newest + 1}. For what was learnt since, "
        "import a newer backup, or send the records since once more"
    )


def _verify_versions(store: VerifiedStore, state: UserState, target: VerifiedTarget | None, found: Verified) -> None:
    if target is None:
        return
    newest = target.newest(state.uid)
    if newer_out(state, newest):
        state = store.load(state.uid)[0] or state  # a daemon may have stored and published it since
    if newer_out(state, newest):
        at = "the state is of before it" if state.version >= newest else f"the state is at {state.version}"
        found.problems.append(f"{state.uid}: adapter version {newest} is published, {at}: {_older(newest)}")
        return
    if newest and newest <= state.erased_through:
        found.problems.append(f"{state.uid}: version {newest} is published still, and it was erased")
        return
    if state.release is None:
        return
    version = target.get(state.uid, state.release.version)
    if version is None:
        found.not_out += 1
        return
    found.versions += 1
    if (problem := _problem_of(version)) is not None:
        found.problems.append(f"{state.uid}: version {state.release.version}: {problem}")


def _problem_of(version: PublishedVersion) -> str | None:
    """Return what is wrong with a published version; None if its tensors are those that its manifest names."""
    try:
        digest = hashlib.sha256(Path(version.location, TENSORS_NAME).read_bytes()).hexdigest()
        read_json(Path(version.location, CONFIG_NAME).read_bytes())
    except OSError as error:
        return f"{Path(error.filename).name} can't be read: {error.strerror}"
    except ValueError:
        return f"{CONFIG_NAME} is no JSON"
    return None if version.manifest.get("digest") == digest else f"{TENSORS_NAME} is not what its manifest names"
