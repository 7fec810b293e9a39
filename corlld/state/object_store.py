"""States in an S3 bucket, by conditional writes: users outgrow one machine, and any daemon may take over a user.

    <prefix>/store.json                         whom the store belongs to
    <prefix>/users/<uid>/state.safetensors      the state; its ETag is the token
    <prefix>/users/<uid>/previous.safetensors   the generation before, for repairs
    <prefix>/positions/<name>.json              how far a file was read; names of topics without ids; where groups
                                                began; repairs under way
    <prefix>/outbox/<name>.json                 users who are still to be announced

Each write carries a random id, by which the object client recognises the own write when its answer is lost.
"""

import contextlib
import itertools
import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping

from corlld.adapters.tensor_file import header_end, is_whole
from corlld.durable import Head, StoreIdentity, UserState
from corlld.errors import (
    ConfigurationError,
    ExitCode,
    FatalError,
    LostSwap,
    RetriableError,
    StateUnreadable,
    UnavailableError,
)
from corlld.state.bucket_outbox import BucketOutbox
from corlld.state.first_states import any_applied
from corlld.state.keys import NO_STATE, UID_PATTERN, checked_position_name, checked_uid, parse_position
from corlld.state.snapshot import Moments, decode, decode_header, encode, head_of, write_id_of
from corlld.state.store_identity import (
    IDENTITY_NAME,
    advice_on_torn,
    check_found,
    check_identity,
    fingerprint_of,
    identity_of,
    new_identity_file,
    raised_identity_file,
)
from corlld.system.object_client import ObjectClient, StoredObject

HEADER_GUESS_BYTES = 65_536  # most headers are whole within the first read; thousands of event ids need a second one
READ_ATTEMPTS = 10
_STATES_ASKED = 10  # whether they have versions
TORN_PAUSE_SECONDS = 0.2  # a server has written an object by then, or shows more of it

_POSITION = re.compile(r"positions/([0-9a-f]+)\.json")
_STATE = re.compile(rf"users/({UID_PATTERN})/state\.safetensors")


class ObjectStore:
    """Implements `corlld.protocols.StateStore` and `PositionStore`.

    Credentials, region and endpoint come from the environment, under AWS's names.

    Args:
        url: `s3://bucket/prefix`.
        max_retries: how often a request is repeated within one call; the loop tries again after that.
        moments: how Adam's moments are written.
    """

    def __init__(self, url: str, max_retries: int = 3, moments: Moments = "float32") -> None:
        self._objects = ObjectClient(url, setting="state.url", max_retries=max_retries)
        self.outbox = BucketOutbox(self._objects)
        self._moments = moments
        self._identity_url = f"{self._objects.url}/{IDENTITY_NAME}"
        self._opened = False
        self._raised_identity: bytes | None = None  # to be written before the first state

    def open(self, identity: StoreIdentity, *, must_exist: bool) -> None:
        """Create or verify `store.json`, and check that the bucket refuses writes whose condition does not hold.

        Raises:
            ConfigurationError: the store belongs to other settings, is in a newer format, is missing though
                `must_exist`, refuses the credentials, or ignores conditions.
            UnavailableError: the store can't be reached.
        """
        with self._objects.needed("can't be used"), self._objects.accepted_credentials():
            existing = self._read_identity()
            check_found(
                existing,
                identity,
                must_exist=must_exist,
                has_states=lambda: any(self._uids()),
                where=self._identity_url,
                remedy="an emptied bucket must not look like new users; check state.url, or restore the bucket",
            )
            if existing is None:
                self._create_identity(identity)
            else:
                self._objects.check_conditions(IDENTITY_NAME, existing)
                self._raised_identity = raised_identity_file(existing, identity)
        self._opened = True

    def secret_fingerprint(self) -> str | None:
        """See the protocol."""
        with self._objects.needed("can't be reached"):
            data = self._read_identity()
        return None if data is None else fingerprint_of(data, where=self._identity_url)

    def load(self, uid: str) -> tuple[UserState | None, str]:
        """See the protocol. A torn state is never passed over for the generation before."""
        with self._objects.retriable():
            found = self._read_state(uid)
            if found is None:
                self._check_present()
                return None, NO_STATE
            state, e_tag = found
            if state.erased and self._opened:
                self._objects.remove(_previous_key(uid))  # a kill may have come before it was removed
        return state, e_tag

    def check_readable(self, uid: str) -> None:
        """Do nothing: a bucket's answer does not tell a single object's damage from a server in trouble."""

    def save(self, uid: str, state: UserState, token: str) -> str:
        """See the protocol."""
        return self._save(uid, state, token, keep_before=not state.erased)

    def restore(self, uid: str, state: UserState, token: str) -> str:
        """Save the state over one that can't be read: the generation before stays, and the unreadable one goes."""
        return self._save(uid, state, token, keep_before=False)

    def _save(self, uid: str, state: UserState, token: str, *, keep_before: bool) -> str:
        key = _state_key(uid)
        if not self._opened:
            raise RuntimeError("only an opened store may be written: its file names the format of its states")
        write_id = secrets.token_hex(16)
        data = encode(state, write_id, self._moments)
        e_tag = None if token == NO_STATE else token
        with self._objects.retriable():
            self._raise_format()
            if keep_before and e_tag is not None:
                # Without this look a stale owner would copy the newest state over the generation before.
                if self._objects.e_tag(key) != e_tag:
                    raise LostSwap("another owner stored newer states of this user")
                self._objects.copy(key, _previous_key(uid))
            new_token = self._objects.swap(key, data, e_tag, lambda found: write_id_of(found) == write_id)
            if new_token is None:
                raise LostSwap("another owner stored this user's state first")
            if state.erased:
                self._objects.remove(_previous_key(uid))
        return new_token

    def head(self, uid: str) -> Head | None:
        """See the protocol. Raises StateUnreadable, RetriableError."""
        state = self.load_header(uid)
        return None if state is None else head_of(state)

    def load_header(self, uid: str, *, check_length: bool = False) -> UserState | None:
        """Return the newest state without its tensors. Quick: the checksum is not checked. Raises as `load`.

        check_length: read the whole state if its object is not as long as its header says.
        """
        with self._objects.retriable():
            found = self._objects.read_beginning(_state_key(uid), HEADER_GUESS_BYTES)
            with contextlib.suppress(ValueError):  # less than a header: see below
                if found is not None and (whole := header_end(found[0])) > HEADER_GUESS_BYTES:
                    found = self._objects.read_beginning(_state_key(uid), whole)
        if found is None:
            return None
        with contextlib.suppress(StateUnreadable):
            if not check_length or is_whole(*found):
                return decode_header(found[0], uid)
        # In one read again: the state is torn, or in a newer format, or was replaced meanwhile.
        return self.load(uid)[0]

    def stored_at(self, uid: str) -> float | None:
        """Return when the newest state was stored, in unix time; None if there is none. Raises RetriableError."""
        with self._objects.retriable():
            return self._objects.modified_at(_state_key(uid))

    def left_of_erased(self, state: UserState, token: str) -> list[str]:
        """Return the generation before a tombstone, if a kill came before it was removed. Raises RetriableError.

        Args:
            state: the user's newest state. Only a tombstone can have something left beside it: a save over a tombstone
                makes the tombstone itself the generation before.
            token: not looked at.
        """
        key = _previous_key(state.uid)
        with self._objects.retriable():
            left = self._objects.read(key) if state.erased else None
        if left is None:
            return []
        with contextlib.suppress(StateUnreadable):
            if decode_header(left.data, state.uid).erased:
                return []  # a copy of the tombstone: the user comes back now
        return [f"{self._objects.url}/{key}"]

    def out_of_reach(self) -> str | None:
        """Return a sentence on what an erasure does not reach; None if it reaches all. Raises UnavailableError."""
        with self._objects.needed("can't be reached"):
            # Objects of before versioning have no version, and are none either.
            some = [IDENTITY_NAME, *map(_state_key, itertools.islice(self._uids(), _STATES_ASKED))]
            if all(self._objects.version(key) is None for key in some):
                return None
        return (
            "the bucket keeps old versions of objects, or did: an erasure does not reach them. Turn versioning off, or "
            "have a lifecycle rule delete noncurrent versions soon"
        )

    def uids(self) -> Iterator[str]:
        """See the protocol."""
        with self._objects.retriable():
            self._check_present()
            yield from self._uids()

    def newest_token(self, uid: str) -> str:
        """Return the token of the newest state, whether or not it can be read. Raises RetriableError."""
        with self._objects.retriable():
            e_tag = self._objects.e_tag(_state_key(uid))
        return NO_STATE if e_tag is None else e_tag

    def previous(self, uid: str) -> tuple[UserState | None, str]:
        """Return the generation before the newest (None if there is none), and the token of the newest, for `save`.

        Raises StateUnreadable if that generation can't be read either, RetriableError.
        """
        with self._objects.retriable():
            e_tag = self._objects.e_tag(_state_key(uid))
            found = self._objects.read(_previous_key(uid))
        return None if found is None else decode(found.data, uid), NO_STATE if e_tag is None else e_tag

    def identity(self) -> StoreIdentity | None:
        """Return whom the store belongs to; None if there is no store. Raises ConfigurationError, UnavailableError."""
        with self._objects.needed("can't be reached"):
            data = self._read_identity()
        return None if data is None else identity_of(data, where=self._identity_url)

    def position_names(self) -> Iterator[str]:
        """Yield the names of all positions."""
        with self._objects.retriable():
            names = [match[1] for key in self._objects.keys("positions") if (match := _POSITION.fullmatch(key))]
        yield from names

    def load_position(self, name: str) -> Mapping[str, str | int] | None:
        """See the protocol. Raises FatalError for an object that is not a position, RetriableError."""
        key = _position_key(name)
        with self._objects.retriable():
            found = self._objects.read(key)
        if found is None:
            return None
        if (position := parse_position(found.data)) is None:
            raise FatalError(
                f"{self._objects.url}/{key} is corrupt: restore it, or remove it to start anew", ExitCode.DATA
            )
        return position

    def save_position(self, name: str, position: Mapping[str, str | int]) -> None:
        """See the protocol."""
        with self._objects.retriable():
            self._objects.replace(_position_key(name), json.dumps(dict(position), sort_keys=True).encode())

    def remove_position(self, name: str) -> None:
        """Forget a position. Nothing happens if there is none."""
        with self._objects.retriable():
            self._objects.remove(_position_key(name))

    def has_applied(self, topic: str) -> bool:
        """See the protocol. Before there is a store, no state names a topic."""
        with self._objects.retriable():
            if self._read_identity() is None:
                return False
        return any_applied(topic, self.uids(), self.load_header)

    # --- one user -----------------------------------------------------------------------------------------------------

    def _read_state(self, uid: str) -> tuple[UserState, str] | None:
        """Return the newest state and its ETag; None if there is none.

        A server may show a reader a part of an object that is just being written. So a state counts as torn only if
        it is read twice alike, under one ETag and with a pause between.
        """
        torn: StoredObject | None = None
        for _ in range(READ_ATTEMPTS):
            found = self._objects.read(_state_key(uid))
            if found is None and torn is None:
                return None
            if found is not None:
                try:
                    return decode(found.data, uid), found.e_tag
                except StateUnreadable as error:
                    if found == torn:
                        raise self._unreadable(uid, error) from None
                    torn = found
            time.sleep(TORN_PAUSE_SECONDS)  # the server tells nobody when it has written; the loop loads in a pool
        raise RetriableError(f"{self._objects.url}: states change faster than they can be read")

    # --- the bucket as a whole ----------------------------------------------------------------------------------------

    def _read_identity(self) -> bytes | None:
        found = self._objects.read(IDENTITY_NAME)
        return None if found is None else found.data

    def _create_identity(self, identity: StoreIdentity) -> None:
        # If another daemon of the group was first, its file is compared.
        is_new = self._objects.create(IDENTITY_NAME, new_identity_file(identity))
        if (created := self._read_identity()) is None:
            raise UnavailableError(f"{self._objects.url}: what was written can't be read back")
        check_identity(created, identity, where=self._identity_url)
        try:
            self._objects.check_conditions(IDENTITY_NAME, created)
        except ConfigurationError:
            if is_new:
                self._objects.remove(IDENTITY_NAME)
            raise

    def _raise_format(self) -> None:
        if (raised := self._raised_identity) is not None:  # two threads may do it: the content is the same
            self._check_present()
            self._objects.replace(IDENTITY_NAME, raised)
            self._raised_identity = None

    def _check_present(self) -> None:
        if self._objects.e_tag(IDENTITY_NAME) is None:
            raise RetriableError(
                f"{self._objects.url} is not a state store: {IDENTITY_NAME} is not there; was the bucket emptied?"
            )

    def _uids(self) -> Iterator[str]:
        for key in self._objects.keys("users"):
            if match := _STATE.fullmatch(key):
                yield match[1]

    def _unreadable(self, uid: str, error: Exception) -> StateUnreadable:
        problem = f"{self._objects.url}/{_state_key(uid)} can't be used: {error}"
        return StateUnreadable(problem, advice_on_torn(self._read_identity()))


def _state_key(uid: str) -> str:
    return f"users/{checked_uid(uid)}/state.safetensors"


def _previous_key(uid: str) -> str:
    return f"users/{checked_uid(uid)}/previous.safetensors"


def _position_key(name: str) -> str:
    return f"positions/{checked_position_name(name)}.json"
