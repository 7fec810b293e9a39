"""The end of a command: a sentence for a failure, and an exit code that also counts what could not be written."""

from corlld.errors import ExitCode
from corlld.system.streams import say, unwritable


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
