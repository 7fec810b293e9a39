"""Removes from a folder of states what an erasure must not leave, and finds what the disk would not let go.

It knows files beside the newest state of a user, and not how that state is chosen.
"""

from pathlib import Path

import structlog

from corlld.adapters.tensor_file import read_beginning
from corlld.durable import UserState
from corlld.errors import StateUnreadable
from corlld.state.damage import DAMAGED, raise_unless_damage
from corlld.state.generations import Generations
from corlld.state.snapshot import decode_header
from corlld.state.tombstones import has_passed
from corlld.system.durable_files import fsync_folder, remove_all

log = structlog.get_logger("corlld.state")


class FolderErasure:
    """What is personal beside the tombstone of one user. Its methods raise OSError.

    Args:
        uid: the user's pseudonym.
        generations: the user's.
        temporary: the folder with states that are being written, or that a kill left over: `<uid>-<random>`.
        elsewhere: another file on the same disk.
    """

    def __init__(self, uid: str, generations: Generations, temporary: Path, elsewhere: Path) -> None:
        self._uid = uid
        self._generations = generations
        self._temporary = temporary
        self._elsewhere = elsewhere

    def forget_before(self, number: int) -> None:
        """Remove generations before the tombstone, and what a kill left over.

        If a file can't be removed, its error is raised once all others are gone durably. Of several errors the first
        that is no damage is raised: only damage may be let lie.
        """
        errors = list(remove_all(self._beside_tombstone(number)).values())
        for folder in (self._generations.folder, self._temporary):
            try:
                fsync_folder(folder)
            except OSError as error:
                errors.append(error)
        if errors:
            raise next((error for error in errors if error.errno not in DAMAGED), errors[0])

    def forget_what_can_be(self, number: int) -> None:
        """Do as `forget_before`, but log a damaged file that can't be removed, and let it lie.

        For a tombstone that is found: what the user had published must be withdrawn, whatever the disk refuses. A file
        that lies is marked, so that it never becomes the state again, also if the tombstone is torn later.
        """
        try:
            self.forget_before(number)
        except OSError as error:
            raise_unless_damage(error, self._elsewhere)
            log.error("erased_file_left", uid=self._uid, problem=error.strerror)
            self._mark_before(number)

    def _mark_before(self, number: int) -> None:
        """Mark the generations before the tombstone as erased, as far as the damage lets it."""
        try:
            self._generations.mark_erased(number)
        except OSError as error:
            raise_unless_damage(error, self._elsewhere)
            log.error("erased_file_not_marked", uid=self._uid, problem=error.strerror)

    def left(self, state: UserState, number: int) -> list[Path]:
        """Return the files that may hold what the user's last erasure should have removed.

        A file that a daemon writes now, or wrote after the user came back, is known by its header. A file that can't be
        read may hold anything.

        Args:
            state: the newest state.
            number: its generation.
        """
        before = self._generations.before(number)
        if state.erased:
            return [*before, *(file for file in self._in_temporary() if not self._is_later(file, state))]
        if not state.erased_through:
            return []
        return [file for file in before if not self._is_later(file, state)]

    def _beside_tombstone(self, number: int) -> list[Path]:
        return [*self._generations.before(number), *self._in_temporary()]

    def _in_temporary(self) -> list[Path]:
        return sorted(self._temporary.glob(f"{self._uid}-*"))

    def _is_later(self, file: Path, state: UserState) -> bool:
        """Return whether the state in the file knows the erasure, or is gone by now.

        Versions don't tell that of a user who was erased before the first version. Then the tombstone's offsets do: who
        has not read the erasure is behind them.
        """
        try:
            found = decode_header(read_beginning(file), self._uid)
        except FileNotFoundError:
            return True
        except (OSError, StateUnreadable):
            return False
        if state.erased and not has_passed(found, state):
            return False
        return found.erased_through >= state.erased_through
