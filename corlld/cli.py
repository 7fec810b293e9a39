"""The door: from a command line to an exit code. Every error becomes a sentence.

What a command does, takes and teaches is in its own module of `corlld.commands`.
"""

import argparse
import signal
from collections.abc import Sequence

from corlld import __version__
from corlld.commands import (
    bench,
    check,
    demo,
    experiment,
    explain,
    letters,
    metrics,
    replay,
    run,
    send,
    settings,
    simulate,
    state,
    uid,
)
from corlld.commands.ending import fail, settle
from corlld.commands.shared import Command, add_parser
from corlld.errors import CorlldError, ExitCode, FatalError
from corlld.system.streams import hold_closed_streams, unwritable

# In the order of `corlld --help`.
COMMANDS: tuple[Command, ...] = (
    run,
    check,
    send,
    letters,
    settings,
    metrics,
    uid,
    state,
    experiment,
    explain,
    replay,
    demo,
    bench,
    simulate,
)

DESCRIPTION = """\
Learn from how users edit a language model's drafts: one LoRA adapter per user,
always fresh."""

EPILOG = """\
exit codes:
  0   done, or stopped by SIGTERM or SIGINT
  2   wrong command line
  65  the input was refused: a file (not followed) with too many dead letters,
      a file that shrank, was replaced, is in another format or has no valid
      event, a recreated topic, offsets out of range, a damaged batch. Or the
      states or versions of too many users can't be used. In `send` and
      `check --sample`: events that are not valid. In `state` and `explain`: no
      store, no such user, or a state that can't be read. In `experiment`: no
      store. In `dead-letters`: no letter matches, or a letter can't be sent
      back
  69  broker or topic could not be reached within
      operations.startup_timeout_seconds (all commands but `run`: 7 seconds, if
      it is known what is in the way), the model or the bucket could not be
      reached, there is too little free memory for the model, or the port of
      operations.http_address is taken
  70  a bug, or a daemon that hung and did not end when it was stopped
  73  the state store, the adapters' folder, the log or standard output can't
      be written
  78  wrong settings, a settings file that can't be read, a model that corlld
      can't train, a Python package that is missing, or a state store that
      belongs to other settings
A second SIGTERM or SIGINT ends the process at once. SIGINT before the loop
runs gives 130.
"""


def entry() -> int:
    """Run `main` in a process of its own: the entry point of the installed `corlld`."""
    from corlld.operations.logs import log_uncaught_errors

    hold_closed_streams()
    log_uncaught_errors()
    try:
        code = main()
    except SystemExit as ended:  # argparse's, which has printed, or a signal's before the loop runs
        code = int(ended.code or ExitCode.OK)
    return settle(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after `corlld`. None: those of this process.
    """
    arguments = build_parser(COMMANDS).parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except FatalError as error:
        return fail(str(error), error.exit_code)
    except CorlldError as error:
        return fail(str(error), ExitCode.UNAVAILABLE)
    except KeyboardInterrupt as interrupt:
        return fail(str(interrupt) or "interrupted", 128 + signal.SIGINT)
    except BrokenPipeError:
        return ExitCode.OK  # the reader left, as `| head` does
    except OSError:
        if (problem := unwritable(probe="\n")) is None:
            raise
        return fail(problem, ExitCode.CANNOT_WRITE)


def build_parser(commands: Sequence[Command]) -> argparse.ArgumentParser:
    """Build the parser. It returns the chosen command's `run` beside its arguments."""
    parser = argparse.ArgumentParser(
        prog="corlld", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"corlld {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in commands:
        own = add_parser(subparsers, command.NAME, command.HELP, command.DESCRIPTION, command.EPILOG)
        own.set_defaults(run=command.run)
        command.add_arguments(own)
    return parser
