"""States in an S3 bucket, by conditional writes: users outgrow one machine, and any daemon may take over a user.

    <prefix>/store.json                         whom the store belongs to
    <prefix>/users/<uid>/state.safetensors      the state; its ETag is the token
    <prefix>/users/<uid>/previous.safetensors   the generation before, for repairs
    <prefix>/positions/<name>.json              how far a file source has read

Each write carries a random id. A write can take effect although its answer is lost, or although a repeated request is
answered "precondition failed": what is then read back tells one's own write by its id.
"""

import contextlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from corlld.adapters.tensor_file import LENGTH_BYTES, header_length
from corlld.errors import (
    ConfigurationError,
    ExitCode,
    FatalError,
    LostSwap,
    RetriableError,
    StateUnreadable,
    UnavailableError,
)
from corlld.records import Head, StoreIdentity, UserState
from corlld.state.snapshot import Moments, decode, decode_header, encode, head_of, write_id_of
from corlld.state.store_identity import check_identity, fingerprint_of, identity_file

if TYPE_CHECKING:
    from obstore import PutMode

NO_STATE = "0"  # the token of a user without a state
HEADER_GUESS_BYTES = 65_536  # most headers are whole within the first read

_IDENTITY = "store.json"
_UID = re.compile(r"[0-9a-f]{32}")
_STATE = re.compile(r"users/([0-9a-f]{32})/state\.safetensors")
_POSITION_NAME = re.compile(r"[0-9a-f]+")
_STATUS = re.compile(r"status code: (\d{3})")


class ObjectStore:
    """See `StateStore`. Credentials, region and endpoint come from the environment, under AWS's names.

    Args:
        url: `s3://bucket/prefix`.
        max_retries: of a request, within the call; the loop tries again after that.
        moments: how Adam's moments are written.
    """

    def __init__(self, url: str, max_retries: int = 3, moments: Moments = "float32") -> None:
        self._url = url.rstrip("/")
        self._moments = moments
        if not self._url.startswith("s3://"):
            raise ConfigurationError("state.url: only s3://bucket/prefix is known")
        try:
            self._s3 = S3Store.from_url(
                self._url, retry_config={"max_retries": max_retries, "retry_timeout": timedelta(seconds=30)}
            )
        except BaseError as error:
            raise ConfigurationError(f"state.url: {self._url} can't be used: {_why(error)}") from None

    def open(self, identity: StoreIdentity, *, must_exist: bool) -> None:
        """Create or verify `store.json`, and see that the bucket can be written under conditions.

        Raises:
            ConfigurationError: the store belongs to other settings, is missing though `must_exist`, refuses the
                credentials, or writes without looking at conditions.
            UnavailableError: it can't be reached.
        """
        try:
            existing = self._read(_IDENTITY)
            if existing is None and (must_exist or any(self._state_keys())):
                reason = "this group has committed offsets" if must_exist else "there are users' states in it"
                raise ConfigurationError(
                    f"{self._url}/{_IDENTITY} is missing, but {reason}: an emptied bucket must not look like new "
                    "users; check state.url, or restore the bucket"
                )
            if existing is not None:
                check_identity(existing[0], identity, where=f"{self._url}/{_IDENTITY}")
            self._check_conditions()
            if existing is None:
                with contextlib.suppress(AlreadyExistsError):  # another daemon of the group was first
                    obstore.put(self._s3, _IDENTITY, identity_file(identity), mode="create")
                if (created := self._read(_IDENTITY)) is None:
                    raise UnavailableError(f"{self._url}: what was written can't be read back")
                check_identity(created[0], identity, where=f"{self._url}/{_IDENTITY}")
        except (UnauthenticatedError, PermissionDeniedError) as error:
            raise ConfigurationError(f"state.url: {self._url} refuses these credentials: {_why(error)}") from None
        except (BaseError, OSError) as error:
            raise UnavailableError(f"{self._url} can't be used: {_why(error)}") from None

    def secret_fingerprint(self) -> str | None:
        """See the protocol."""
        try:
            found = self._read(_IDENTITY)
            return None if found is None else fingerprint_of(found[0], where=f"{self._url}/{_IDENTITY}")
        except (BaseError, OSError) as error:
            raise UnavailableError(f"{self._url} can't be reached: {_why(error)}") from None

    def load(self, uid: str) -> tuple[UserState | None, str]:
        """See the protocol. A torn state is never passed over for the generation before."""
        with self._retriable():
            found = self._read(_state_key(uid))
            if found is None:
                self._check_present()
                return None, NO_STATE
            data, e_tag = found
            try:
                state = decode(data, uid)
            except StateUnreadable as error:
                raise self._unreadable(uid, error) from None
            if state.erased:
                self._remove(_previous_key(uid))  # a kill may have come before it was
        return state, e_tag

    def save(self, uid: str, state: UserState, token: str) -> str:
        """See the protocol."""
        key = _state_key(uid)
        write_id = secrets.token_hex(16)
        data = encode(state, write_id, self._moments)
        with self._retriable():
            if not state.erased and token != NO_STATE:
                if self._e_tag(key) != token:  # without a look a stale owner would copy the newest over the previous
                    raise LostSwap("another owner stored newer states of this user")
                obstore.copy(self._s3, key, _previous_key(uid))
            try:
                result = obstore.put(self._s3, key, data, mode="create" if token == NO_STATE else {"e_tag": token})
                new_token = result["e_tag"] or ""
            except BaseError as error:
                new_token = self._read_back(key, write_id, token, error)
            if state.erased:
                self._remove(_previous_key(uid))
        return new_token

    def head(self, uid: str) -> Head | None:
        """See the protocol. Raises StateUnreadable, RetriableError."""
        state = self.load_header(uid)
        return None if state is None else head_of(state)

    def load_header(self, uid: str) -> UserState | None:
        """The newest state without its tensors, and without a check of its sum: quick. Raises as `load`."""
        key = _state_key(uid)
        with self._retriable():
            try:
                beginning = bytes(obstore.get_range(self._s3, key, start=0, length=HEADER_GUESS_BYTES))
                length = header_length(beginning)
                if LENGTH_BYTES + length > len(beginning):
                    # In one read again: another owner may have replaced the state meanwhile.
                    return self.load(uid)[0]
                return decode_header(beginning[LENGTH_BYTES : LENGTH_BYTES + length], uid)
            except FileNotFoundError:
                return None
            except (ValueError, StateUnreadable) as error:
                raise self._unreadable(uid, error) from None

    def uids(self) -> Iterator[str]:
        """See the protocol."""
        with self._retriable():
            self._check_present()
            yield from self._state_keys()

    def load_position(self, name: str) -> Mapping[str, str | int] | None:
        """See the protocol. Raises FatalError for an object that is not a position, RetriableError."""
        key = _position_key(name)
        with self._retriable():
            found = self._read(key)
        if found is None:
            return None
        try:
            position = json.loads(found[0])
        except ValueError:
            position = None
        if not isinstance(position, dict):
            raise FatalError(f"{self._url}/{key} is corrupt: restore it, or remove it to start anew", ExitCode.DATA)
        return position

    def save_position(self, name: str, position: Mapping[str, str | int]) -> None:
        """See the protocol."""
        with self._retriable():
            obstore.put(self._s3, _position_key(name), json.dumps(dict(position), sort_keys=True).encode())

    # --- objects ------------------------------------------------------------------------------------------------------

    def _read(self, key: str) -> tuple[bytes, str] | None:
        """An object and its ETag."""
        try:
            result = obstore.get(self._s3, key)
            return bytes(result.bytes()), result.meta["e_tag"] or ""
        except FileNotFoundError:
            return None

    def _e_tag(self, key: str) -> str | None:
        try:
            return obstore.head(self._s3, key)["e_tag"]
        except FileNotFoundError:
            return None

    def _remove(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            obstore.delete(self._s3, key)

    def _read_back(self, key: str, write_id: str, token: str, error: BaseError) -> str:
        """What became of a write that failed or was not answered. Returns the new token where it took effect."""
        found = self._read(key)
        if found is not None and write_id_of(found[0]) == write_id:
            return found[1]
        if isinstance(error, PreconditionError | AlreadyExistsError) or (found and found[1] != token):
            raise LostSwap("another owner stored this user's state first")
        raise error  # nothing was written, and nobody else wrote: to be tried again

    def _state_keys(self) -> Iterator[str]:
        for chunk in obstore.list(self._s3, prefix="users"):
            for entry in chunk:
                if match := _STATE.fullmatch(entry["path"]):
                    yield match[1]

    def _check_present(self) -> None:
        if self._e_tag(_IDENTITY) is None:
            raise RetriableError(f"{self._url} is not a state store: {_IDENTITY} is not there; was the bucket emptied?")

    def _check_conditions(self) -> None:
        """A store that ignores conditions would let a stale owner overwrite newer state."""
        probe = f"probe-{secrets.token_hex(8)}"
        obstore.put(self._s3, probe, b"1", mode="create")
        try:
            refusals: tuple[tuple[PutMode, type[Exception]], ...] = (
                ("create", AlreadyExistsError),
                ({"e_tag": '"another"'}, PreconditionError),
            )
            for mode, refusal in refusals:
                try:
                    obstore.put(self._s3, probe, b"2", mode=mode)
                except refusal:
                    continue
                raise ConfigurationError(
                    f"state.url: {self._url} ignores If-None-Match or If-Match: states would not be safe in it"
                )
        finally:
            self._remove(probe)

    def _unreadable(self, uid: str, error: Exception) -> StateUnreadable:
        return StateUnreadable(
            f"{self._url}/{_state_key(uid)} can't be used: {error}. To repair: move the object away, copy "
            "previous.safetensors beside it to its name, and send this user's records again, from its `applied` on"
        )

    @contextlib.contextmanager
    def _retriable(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            raise RetriableError(f"{self._url}: {_why(error)}") from None


def _why(error: Exception) -> str:
    """A few words. The errors themselves name keys, and with them users."""
    status = _STATUS.search(str(error))
    if isinstance(error, FileNotFoundError) or (status and status[1] == "404"):
        return "it has no such bucket or object"
    return f"it answered {status[1]}" if status else f"no answer ({type(error).__name__})"


def _state_key(uid: str) -> str:
    return f"users/{_checked(uid)}/state.safetensors"


def _previous_key(uid: str) -> str:
    return f"users/{_checked(uid)}/previous.safetensors"


def _checked(uid: str) -> str:
    if not _UID.fullmatch(uid):
        raise ValueError("a uid is 32 hex digits")
    return uid


def _position_key(name: str) -> str:
    if not _POSITION_NAME.fullmatch(name):
        raise ValueError("a position's name is hex digits")
    return f"positions/{name}.json"
