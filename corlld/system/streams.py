"""Standard streams that are closed or can't be written: a sentence where somebody can still read it.

Nothing here knows what is written. `operations.logs` notices the failures of the log.
"""

import os
import sys
from typing import TextIO


def hold_closed_streams() -> None:
    """Fill the places of closed standard streams, so that no file that is opened later gets there.

    Else what is written to standard error could go into a user's state. It must fail instead, so the streams are
    opened the wrong way round: input for writing, outputs for reading.
    """
    for name, access, mode in (("stdin", os.O_WRONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_RDONLY, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, access), mode))


def unwritable(probe: str = "") -> str | None:
    """Write out what was printed. Returns a sentence if that fails, else None. A stream that fails is given up.

    A reader that left (`| head`) has read enough: that is not a failure.

    Args:
        probe: a text to write first. It tells after an OSError whether a stream raised it: a large text that could
            not be written is not in the buffer any more, so flushing alone would not fail.
    """
    for name, stream in (("standard output", sys.stdout), ("standard error", sys.stderr)):
        try:
            if probe:  # on an unbuffered stream, writing an empty text is an attempt too, and may fail
                stream.write(probe)
            stream.flush()
        except BrokenPipeError:
            _give_up(stream)
        except OSError as error:
            _give_up(stream)
            return f"{name} can't be written: {error.strerror}"
    return None


def say(message: str) -> None:
    """Print to standard error, or to standard output if that fails. If both fail, the exit code has to be enough."""
    for stream in (sys.stderr, sys.stdout):
        try:
            print(message, file=stream, flush=True)
        except OSError:
            _give_up(stream)
        else:
            return


def _give_up(stream: TextIO) -> None:
    """Discard what is left in the buffer. Else it would fail again at the very end, and change the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
