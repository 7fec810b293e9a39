"""Tells a bad spot of the disk, where one file lies, from a disk that is away: another file can be read then.

It does not know what the files hold.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# The device can't read; or the filesystem found a checksum or its own structure to be wrong.
DAMAGED = (errno.EIO, errno.EBADMSG, errno.EUCLEAN)


def raise_unless_damage(error: OSError, elsewhere: Path) -> None:
    """Raise the error unless its reason is damage. `elsewhere`: a file on the same disk; its error is raised, too."""
    if error.errno not in DAMAGED:
        raise error
    _forget_cached(elsewhere)
    elsewhere.read_bytes()


def read_twice(file: Path) -> bytes:
    """Read the file, and once more if the disk answers as if the file were damaged: such an error may pass."""
    try:
        return file.read_bytes()
    except OSError as error:
        if error.errno not in DAMAGED:
            raise
    return file.read_bytes()


def _forget_cached(file: Path) -> None:
    """Have the system forget the file's content, so that it is read from the disk next time. Best effort.

    A disk that is away answers from the cache, and would look like a disk with a single bad spot. The system may keep
    what another process uses, and some filesystems lie in memory.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def damage_raises(elsewhere: Path, error_of: Callable[[str], Exception]) -> Iterator[None]:
    """Raise `error_of` the reason in place of an OSError by which the disk refuses to read the one file of the block.

    Args:
        elsewhere: a file on the same disk. If it can't be read either, or the OSError has another reason, an OSError is
            raised.
        error_of: is given the system's words.
    """
    try:
        yield
    except OSError as error:
        raise_unless_damage(error, elsewhere)
        raise error_of(error.strerror or type(error).__name__) from error
