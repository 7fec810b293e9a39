"""Standard output and error that can't be written: one sentence where somebody can still read it, and an exit code.

Nothing here knows what is written. The log's own failures are `operations.logs`'s to notice.
"""

import os
import sys
from typing import TextIO


def hold_closed_streams() -> None:
    """Put something into the places of standard streams that were closed, so that the next open file does not get there.

    What is then written to standard error must fail, and not go into a user's state. So they are opened the wrong way
    round: input for writing, outputs for reading.
    """
    if sys.stdin is None:
        sys.stdin = open(os.open(os.devnull, os.O_WRONLY))  # noqa: SIM115, PTH123 - for the rest of the process
    if sys.stdout is None:
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w")  # noqa: SIM115, PTH123
    if sys.stderr is None:
        sys.stderr = open(os.open(os.devnull, os.O_RDONLY), "w")  # noqa: SIM115, PTH123


def unwritable(stream: TextIO) -> str | None:
    """Why what was printed to the stream could not be written, in the operating system's words; None where it was.

    A stream that fails is given up. A reader that left (`| head`) had enough: that is no failure.
    """
    try:
        stream.flush()
    except BrokenPipeError:
        give_up(stream)
    except OSError as error:
        give_up(stream)
        return error.strerror or type(error).__name__
    return None


def say(message: str) -> None:
    """To standard error, or to standard output where that can't be written. To neither: the exit code has to do."""
    for stream in (sys.stderr, sys.stdout):
        try:
            print(message, file=stream, flush=True)
        except OSError:
            give_up(stream)
        else:
            return


def give_up(stream: TextIO) -> None:
    """What is left in its buffer goes nowhere, or it would fail again as the interpreter ends, with another exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
