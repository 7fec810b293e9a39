"""States in a local folder, by compare-and-swap without a lock file: a process that was stopped would hold one.

    store.json                          whom the store belongs to
    users/<uid>/<12 digits>.safetensors the generations of a user: the highest number is the state
    temporary/<uid>-<random>            being written, or left over by a kill
    positions/<name>.json               how far a file was read; names of topics without ids; where groups began;
                                        repairs under way

A state is written whole under a temporary name, and linked to the next number. Of two owners one finds the number
taken. But old generations are removed, so the number after a stale token can be free again: after the link the folder
is listed once more, and a higher number means that the swap is lost.
"""

import contextlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from corlld.adapters.tensor_file import read_beginning, read_beginning_of_whole
from corlld.durable import Head, StoreIdentity, UserState
from corlld.errors import ExitCode, FatalError, LostSwap, RetriableError, StateUnreadable
from corlld.state.attempts_file import FOLDER as ATTEMPTS_FOLDER
from corlld.state.damage import damage_raises
from corlld.state.first_states import any_applied
from corlld.state.folder_erasure import FolderErasure
from corlld.state.folder_outbox import OUTBOX_FOLDER, FolderOutbox
from corlld.state.generations import Generations
from corlld.state.keys import NO_STATE, checked_position_name, checked_uid, is_uid, parse_position
from corlld.state.mounts import refuse_network_filesystem
from corlld.state.snapshot import Moments, decode, decode_header, encode, head_of
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
from corlld.system.durable_files import (
    PERSONAL,
    check_permission,
    check_writable,
    create,
    fsync_folder,
    link_new,
    make_folders,
    remove_left_overs,
    replace,
    retriable,
    write_whole,
)


class LocalFolderStore:
    """Implements `corlld.protocols.StateStore` and `PositionStore`. The token is the number of the generation.

    A store that is not opened can be read (as `corlld state show` does) by a process that has no right to write.

    Args:
        path: the folder, on a local filesystem; made by `open`.
        moments: how Adam's moments are written.
    """

    def __init__(self, path: Path, moments: Moments = "float32") -> None:
        self._path = path
        self._moments = moments
        self._users = path / "users"
        self._temporary = path / "temporary"
        self._positions = path / "positions"
        self.outbox = FolderOutbox(path / OUTBOX_FOLDER, self._temporary)
        self._identity_file = path / IDENTITY_NAME
        self._opened = False
        self._raised_identity: bytes | None = None  # to be written before the first state

    def open(self, identity: StoreIdentity, *, must_exist: bool) -> None:
        """Create or verify `store.json`, and check that the folder can be written.

        Raises:
            ConfigurationError: the store belongs to other settings, is in a newer format, is missing though
                `must_exist`, or lies on a network filesystem.
            FatalError: the folder can't be read or written.
        """
        refuse_network_filesystem(self._path)
        try:
            existing = self._read_identity()
            check_found(
                existing,
                identity,
                must_exist=must_exist,
                has_states=lambda: any(self._users.glob("*")),
                where=str(self._identity_file),
                remedy="an unmounted folder must not look like new users; mount the state folder, or restore it from "
                "a backup",
            )
            check_writable(self._path, PERSONAL)
            for folder in (self._users, self._temporary, self._positions, self._path / OUTBOX_FOLDER):
                make_folders(folder, PERSONAL)
                check_permission(folder)  # they may be another user's: of a run by root, say
            check_permission(self._path / ATTEMPTS_FOLDER)
            if existing is None:
                with contextlib.suppress(FileExistsError):  # another daemon of the group was first
                    create(self._identity_file, new_identity_file(identity), PERSONAL)
                check_identity(self._identity_file.read_bytes(), identity, where=str(self._identity_file))
            else:
                self._raised_identity = raised_identity_file(existing, identity)
            self._remove_left_overs()
        except OSError as error:
            raise FatalError(f"{self._path} can't be used: {error.strerror}", ExitCode.CANNOT_WRITE) from error
        self._opened = True

    def secret_fingerprint(self) -> str | None:
        """See the protocol."""
        try:
            data = self._read_identity()
            return None if data is None else fingerprint_of(data, where=str(self._identity_file))
        except OSError as error:
            raise FatalError(f"{self._path} can't be read: {error.strerror}", ExitCode.CANNOT_WRITE) from error

    def load(self, uid: str) -> tuple[UserState | None, str]:
        """See the protocol. A torn state is never passed over for the generation before."""
        generations = self._generations(uid)
        with retriable(self._path):
            found = generations.read_newest(Path.read_bytes)
            if found is None:
                self._check_mounted()
                return None, NO_STATE
            number, data = found
            try:
                state = decode(data, uid)
            except StateUnreadable as error:
                raise self._unreadable(uid, number, error) from None
            if self._opened:
                # Offsets are committed because of what was read here, and a kill may have come before its fsync.
                fsync_folder(generations.folder)
                fsync_folder(self._users)
                if state.erased:
                    self._erasure(uid).forget_what_can_be(number)
        return state, str(number)

    def check_readable(self, uid: str) -> None:
        """Raise StateUnreadable if the disk can't read the newest state, and can read others. Raises RetriableError.

        An error of the disk may pass, so `load` does not say so at once; people who look at the disk decide.
        """
        generations = self._generations(uid)
        with retriable(self._path):
            number = generations.newest()
            with damage_raises(self._identity_file, lambda reason: self._unreadable(uid, number or 0, reason)):
                generations.read_newest(Path.read_bytes)

    def save(self, uid: str, state: UserState, token: str) -> str:
        """See the protocol. After a write of unknown outcome the next try raises LostSwap, so that the caller loads."""
        return self._save(uid, state, token, over_unreadable=False)

    def restore(self, uid: str, state: UserState, token: str) -> str:
        """Save the state over one that can't be read: the generation before stays, and the unreadable one goes."""
        return self._save(uid, state, token, over_unreadable=True)

    def _save(self, uid: str, state: UserState, token: str, *, over_unreadable: bool) -> str:
        generations = self._generations(uid)
        if not self._opened:
            raise RuntimeError("only an opened store may be written: its file names the format of its states")
        number = int(token) + 1
        data = encode(state, moments=self._moments)
        with retriable(self._path):
            self._raise_format()
            if number == 1:
                # Not its parents: `open` made them. If they are missing, the folder is no longer mounted.
                with contextlib.suppress(FileExistsError):
                    generations.folder.mkdir(PERSONAL.folder)
                fsync_folder(self._users)
            temporary = self._temporary / f"{uid}-{secrets.token_hex(8)}"
            write_whole(temporary, data, PERSONAL)
            try:
                link_new(temporary, generations.file(number))
            except FileExistsError:
                raise LostSwap("another owner stored this user's state first") from None
            if generations.newest() != number:
                generations.file(number).unlink(missing_ok=True)
                raise LostSwap("another owner stored newer states of this user")
            if state.erased:
                self._erasure(uid).forget_before(number)
            elif over_unreadable:
                generations.try_to_remove([number - 1])
            else:
                generations.try_to_remove(range(number - 1))
        return str(number)

    def head(self, uid: str) -> Head | None:
        """See the protocol. Raises StateUnreadable, RetriableError."""
        state = self.load_header(uid)
        return None if state is None else head_of(state)

    def load_header(self, uid: str, *, check_length: bool = False) -> UserState | None:
        """Return the newest state without its tensors. Quick: the checksum is not checked. Raises as `load`.

        check_length: read the whole state if its file is not as long as its header says.
        """
        with retriable(self._path):
            found = self._generations(uid).read_newest(read_beginning_of_whole if check_length else read_beginning)
        if found is None:
            return None
        with contextlib.suppress(StateUnreadable):
            return decode_header(found[1], uid)
        return self.load(uid)[0]  # the whole file tells a newer format from a damage

    def stored_at(self, uid: str) -> float | None:
        """Return when the newest state was stored, in unix time; None if there is none. Raises RetriableError."""
        generations = self._generations(uid)
        with retriable(self._path), contextlib.suppress(FileNotFoundError):
            number = generations.newest()
            return None if number is None else generations.file(number).stat().st_mtime
        return None

    def left_of_erased(self, state: UserState, token: str) -> list[str]:
        """Return the files that may hold what the user's last erasure should have removed. Raises RetriableError.

        Args:
            state: the user's newest state.
            token: belongs to the state.
        """
        with retriable(self._path):
            return [str(file) for file in self._erasure(state.uid).left(state, int(token))]

    def out_of_reach(self) -> str | None:
        """Return None: an erasure reaches every file of a store, but for those that `left_of_erased` names."""
        return None

    def uids(self) -> Iterator[str]:
        """See the protocol. In order. A user whose folder can't be listed is yielded: only `load` and `head` fail."""
        self._check_mounted()
        with retriable(self._path):
            folders = sorted(folder for folder in self._users.iterdir() if is_uid(folder.name))
        for folder in folders:
            with contextlib.suppress(OSError):
                if Generations(folder).newest() is None:
                    continue
            yield folder.name

    def newest_token(self, uid: str) -> str:
        """Return the token of the newest state, whether or not it can be read. Raises RetriableError."""
        with retriable(self._path):
            newest = self._generations(uid).newest()
        return NO_STATE if newest is None else str(newest)

    def previous(self, uid: str) -> tuple[UserState | None, str]:
        """Return the generation before the newest (None if there is none), and the token of the newest, for `save`.

        Raises StateUnreadable if that generation can't be read either, RetriableError.
        """

        def read(file: Path) -> bytes:
            with damage_raises(self._identity_file, lambda reason: StateUnreadable(f"{file}: {reason}")):
                return file.read_bytes()

        with retriable(self._path):
            newest, data = self._generations(uid).read_before_newest(read)
        return None if data is None else decode(data, uid), NO_STATE if newest is None else str(newest)

    def identity(self) -> StoreIdentity | None:
        """Return whom the store belongs to; None if there is no store. Raises ConfigurationError, FatalError."""
        try:
            data = self._read_identity()
        except OSError as error:
            raise FatalError(f"{self._path} can't be read: {error.strerror}", ExitCode.CANNOT_WRITE) from None
        return None if data is None else identity_of(data, where=str(self._identity_file))

    def position_names(self) -> Iterator[str]:
        """Yield the names of all positions."""
        with retriable(self._path):
            yield from sorted(path.stem for path in self._positions.glob("*.json"))

    def load_position(self, name: str) -> Mapping[str, str | int] | None:
        """See the protocol. Raises FatalError for a file that is not a position, RetriableError."""
        path = self._position_file(name)
        with retriable(self._path):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                return None
        if (position := parse_position(data)) is None:
            raise FatalError(f"{path} is corrupt: restore it, or remove it to read the file again", ExitCode.DATA)
        return position

    def save_position(self, name: str, position: Mapping[str, str | int]) -> None:
        """See the protocol."""
        with retriable(self._path):
            replace(self._position_file(name), json.dumps(dict(position), sort_keys=True).encode(), PERSONAL)

    def remove_position(self, name: str) -> None:
        """Forget a position. Nothing happens if there is none."""
        with retriable(self._path):
            self._position_file(name).unlink(missing_ok=True)
            fsync_folder(self._positions)

    def has_applied(self, topic: str) -> bool:
        """See the protocol. Before there is a store, no state names a topic."""
        with retriable(self._path):
            if self._read_identity() is None:
                return False
        return any_applied(topic, self.uids(), self.load_header)

    # --- one user -----------------------------------------------------------------------------------------------------

    def _generations(self, uid: str) -> Generations:
        return Generations(self._users / checked_uid(uid))

    def _erasure(self, uid: str) -> FolderErasure:
        return FolderErasure(uid, self._generations(uid), self._temporary, self._identity_file)

    def _unreadable(self, uid: str, number: int, error: Exception | str) -> StateUnreadable:
        problem = f"{self._generations(uid).file(number)} can't be used: {error}"
        return StateUnreadable(problem, advice_on_torn(self._read_identity()))

    # --- the folder as a whole ----------------------------------------------------------------------------------------

    def _read_identity(self) -> bytes | None:
        try:
            return self._identity_file.read_bytes()
        except FileNotFoundError:
            return None

    def _raise_format(self) -> None:
        if (raised := self._raised_identity) is not None:  # two threads may do it: the content is the same
            self._check_mounted()
            replace(self._identity_file, raised, PERSONAL)
            self._raised_identity = None

    def _check_mounted(self) -> None:
        if not self._identity_file.exists():
            raise RetriableError(
                f"{self._path} is not a state store: {IDENTITY_NAME} is not there; is the folder mounted?"
            )

    def _position_file(self, name: str) -> Path:
        return self._positions / f"{checked_position_name(name)}.json"

    def _remove_left_overs(self) -> None:
        now = time.time()
        remove_left_overs(self._temporary, now, every_name=True)
        for folder in (self._positions, self._path / ATTEMPTS_FOLDER):
            with contextlib.suppress(OSError):  # there is none yet, or it can't be listed: no start needs that
                remove_left_overs(folder, now)
