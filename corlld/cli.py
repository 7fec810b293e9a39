"""The door: from a command line to an exit code. Every error becomes a sentence.

What a command does, takes and teaches is in its own module of `corlld.commands`.
"""

import argparse
import signal
import sys
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
from corlld.commands.any_order import AnyOrderParser
from corlld.commands.ending import fail, settle
from corlld.commands.exit_codes import help_lines
from corlld.commands.shared import Command, add_parser
from corlld.errors import CorlldError, ExitCode, FatalError, RetriableError
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

EPILOG = "\n".join(("exit codes:", *help_lines()))


def entry() -> int:
    """Run `main` in a process of its own: the entry point of the installed `corlld`."""
    from corlld.operations.logs import log_uncaught_errors

    hold_closed_streams()
    log_uncaught_errors()
    try:
        code = main()
    except SystemExit as ended:  # argparse's, which has printed, or a signal's before the loop runs
        code = int(ended.code or ExitCode.OK)
    except Exception:  # noqa: BLE001  # it is logged, as without this clause: then the exit code would be 1
        sys.excepthook(*sys.exc_info())
        code = ExitCode.INTERNAL
    return settle(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after `corlld`. None: those of this process.
    """
    arguments = build_parser(COMMANDS).parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (FatalError, RetriableError) as error:
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
    parser: argparse.ArgumentParser = AnyOrderParser(  # argparse makes those of the commands of the same class
        prog="corlld", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"corlld {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in commands:
        own = add_parser(subparsers, command.NAME, command.HELP, command.DESCRIPTION, command.EPILOG)
        own.set_defaults(run=command.run)
        command.add_arguments(own)
    return parser
