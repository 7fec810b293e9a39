"""The end of a command: a sentence for a failure, and an exit code that also counts what could not be written.

`give_up` ends a process that can't come to such an end.
"""

import os
import sys
import threading
import traceback

from corlld.errors import ExitCode
from corlld.system.streams import say, unwritable

LAST_WORDS_SECONDS = 2.0


def fail(message: str, code: int) -> int:
    """Say why the command failed, and return its exit code."""
    for line in message.splitlines():
        say(f"corlld: {line}")
    return code


def settle(code: int) -> int:
    """Write out all that was printed, and return the exit code of a command that returned `code`.

    That is `CANNOT_WRITE`, said in a sentence, if the command succeeded but its log or its output was not written.
    """
    from corlld.operations.logs import log_problem

    logged, printed = log_problem(), unwritable()
    if code == ExitCode.OK and (problem := logged or printed):
        return fail(problem, ExitCode.CANNOT_WRITE)
    return code


def give_up(message: str) -> None:
    """End the process with `INTERNAL` from any thread, whatever the main thread does. Log why, and where that stands.

    The log may be what the main thread hangs in, so the process does not wait long for it.
    """
    words = threading.Thread(target=_last_words, args=(message,), daemon=True)
    words.start()
    words.join(LAST_WORDS_SECONDS)
    os._exit(ExitCode.INTERNAL)


def _last_words(message: str) -> None:
    import structlog

    frame = sys._current_frames()[threading.main_thread().ident or 0]  # the only way to see it
    stack = [(each.f_code, line) for each, line in traceback.walk_stack(frame)]
    frames = [f"{code.co_filename}:{line} in {code.co_qualname}" for code, line in stack]
    structlog.get_logger("corlld").error("gave_up", problem=message, main_thread=frames)
