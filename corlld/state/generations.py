"""One user's generations in a folder: files `<12 digits>.safetensors`. The highest number is the user's state.

An empty file `<12 digits>.erased` says that no lower generation may become the state again, though the disk keeps its
file. It stays for ever: numbers only go up.

This module does not know what the files hold.
"""

import contextlib
import errno
import re
from collections.abc import Callable, Container
from pathlib import Path

import structlog

from corlld.system.durable_files import PERSONAL, fsync_folder, remove_all

log = structlog.get_logger("corlld.state")

READ_ATTEMPTS = 10

_GENERATION = re.compile(r"(\d{12})\.safetensors")
_MARK = re.compile(r"(\d{12})\.erased")


class Generations:
    """The generations in one folder, which other owners may change at any time. Its methods raise OSError.

    folder: its name is the user's pseudonym.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, number: int) -> Path:
        """Return the path of a generation."""
        return self.folder / f"{number:012d}.safetensors"

    def newest(self) -> int | None:
        """Return the number of the newest generation; None if there is none, or no folder."""
        return max(self._numbers(), default=None)

    def read_newest(self, read: Callable[[Path], bytes]) -> tuple[int, bytes] | None:
        """Return the number of the newest generation and what `read` finds in its file; None if there is none."""
        for _ in range(READ_ATTEMPTS):
            number = self.newest()
            if number is None:
                return None
            with contextlib.suppress(FileNotFoundError):  # another owner has moved on by two generations meanwhile
                return number, read(self.file(number))
        raise OSError(errno.EBUSY, "states change faster than they can be read")

    def read_before_newest(self, read: Callable[[Path], bytes]) -> tuple[int | None, bytes | None]:
        """Return the number of the newest generation, and what `read` finds in the file of the one before.

        None for a generation that there is not. The one before the newest counts as none if it was erased.
        """
        for _ in range(READ_ATTEMPTS):
            newest, before = self.newest(), self._before_newest()
            if before is None:
                return newest, None
            with contextlib.suppress(FileNotFoundError):  # another owner has moved on meanwhile
                return newest, read(self.file(before))
        raise OSError(errno.EBUSY, "states change faster than they can be read")

    def _before_newest(self) -> int | None:
        before = next(iter(sorted(self._numbers(), reverse=True)[1:2]), None)
        return None if before is None or before < max(self._matches(_MARK), default=0) else before

    def before(self, number: int) -> list[Path]:
        """Return the files of all generations older than `number`, oldest first."""
        return [self.file(older) for older in sorted(self._numbers()) if older < number]

    def mark_erased(self, number: int) -> None:
        """Note durably that the generations before `number` were erased: see the module."""
        (self.folder / f"{number:012d}.erased").touch(PERSONAL.file)
        fsync_folder(self.folder)

    def try_to_remove(self, numbers: Container[int]) -> None:
        """Remove these generations, as far as the disk lets it. What stays is passed over by readers for the newest.

        The newest is durable already, and its owner must not hear that it is not. The log does: of each file that stays
        when its turn comes first, or in a folder where every file stays, whenever their number has doubled.
        """
        try:
            doomed = [self.file(number) for number in sorted(self._numbers()) if number in numbers]
        except OSError as error:
            log.warning("generations_left", uid=self.folder.name, problem=error.strerror)
            return
        left = remove_all(doomed)
        if left and doomed[-1] in left and len(left).bit_count() == 1:
            log.warning("generations_left", uid=self.folder.name, files=len(left), problem=left[doomed[-1]].strerror)

    def _numbers(self) -> list[int]:
        return self._matches(_GENERATION)

    def _matches(self, pattern: re.Pattern[str]) -> list[int]:
        """Return the numbers in the names that match."""
        try:
            names = [path.name for path in self.folder.iterdir()]
        except FileNotFoundError:
            return []
        return [int(match[1]) for name in names if (match := pattern.fullmatch(name))]
