"""One user's generations in a folder: files `<12 digits>.safetensors`. The highest number is the user's state.

This module knows neither what the files hold nor whose they are.
"""

import contextlib
import errno
import re
from collections.abc import Callable, Container
from pathlib import Path

READ_ATTEMPTS = 10

_GENERATION = re.compile(r"(\d{12})\.safetensors")


class Generations:
    """The generations in one folder, which other owners may change at any time. Its methods raise OSError."""

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

    def before_newest(self) -> int | None:
        """Return the number of the generation before the newest; None if there is none."""
        return next(iter(sorted(self._numbers(), reverse=True)[1:2]), None)

    def before(self, number: int) -> list[Path]:
        """Return the files of all generations older than `number`, oldest first."""
        return [self.file(older) for older in sorted(self._numbers()) if older < number]

    def try_to_remove(self, numbers: Container[int]) -> None:
        """Remove these generations, as far as the disk lets it. What stays is passed over by readers for the newest.

        The newest is durable already, and its owner must not hear that it is not.
        """
        for number in self._numbers():
            if number in numbers:
                with contextlib.suppress(OSError):
                    self.file(number).unlink(missing_ok=True)

    def _numbers(self) -> list[int]:
        try:
            names = [path.name for path in self.folder.iterdir()]
        except FileNotFoundError:
            return []
        return [int(match[1]) for name in names if (match := _GENERATION.fullmatch(name))]
