"""Standard output and error that can't be written: one sentence where somebody can still read it, and an exit code.

Nothing here knows what is written. The log's own failures are `operations.logs`'s to notice.
"""

import os
import sys
from typing import TextIO


def hold_closed_streams() -> None:
    """Put something into the places of standard streams that were closed, so that no file that is opened gets there.

    What is then written to standard error must fail, and not go into a user's state. So they are opened the wrong way
    round: input for writing, outputs for reading.
    """
    for name, access, mode in (("stdin", os.O_WRONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_RDONLY, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, access), mode))


def unwritable(probe: str = "") -> str | None:
    """Why what was printed could not be written, as a sentence; None where it was. A stream that fails is given up.

    A reader that left (`| head`) had enough: that is no failure.

    Args:
        probe: written first. After an error, of which it is not known whether a stream had it: a large
            text that could not be written is in no buffer any more, so that flushing alone would not fail.
    """
    for name, stream in (("standard output", sys.stdout), ("standard error", sys.stderr)):
        try:
            if probe:  # where streams are unbuffered, writing nothing is an attempt too, and may fail
                stream.write(probe)
            stream.flush()
        except BrokenPipeError:
            _give_up(stream)
        except OSError as error:
            _give_up(stream)
            return f"{name} can't be written: {error.strerror}"
    return None


def say(message: str) -> None:
    """To standard error, or to standard output where that can't be written. To neither: the exit code has to do."""
    for stream in (sys.stderr, sys.stdout):
        try:
            print(message, file=stream, flush=True)
        except OSError:
            _give_up(stream)
        else:
            return


def _give_up(stream: TextIO) -> None:
    """What is left in its buffer goes nowhere, or it would fail again, and change the exit code, at the very end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
