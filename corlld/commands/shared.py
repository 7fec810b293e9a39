"""Parts that several commands share: their shape, the `--config` option, settings and logs, consoles, a user's id.

Nothing here may import what takes long to import: `corlld --help` reads every command's module.
"""

import argparse
import shlex
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.table import Table

from corlld.errors import ExitCode, FatalError

if TYPE_CHECKING:
    from corlld.settings.sections import Settings

# How long a broker is waited for once it is known what is in the way: a person waits, and a topic that does not exist
# by then won't appear. `run` waits for longer, since a broker may just be starting. If nothing is known to be wrong,
# the cluster may be far away: then each command waits for `operations.startup_timeout_seconds`.
REACH_SECONDS = 7.0
HELP_COLUMNS = 80  # argparse wraps neither descriptions nor epilogs where an epilog keeps its lines
PIPE_COLUMNS = 140  # wide enough for every table
WIDEST_TABLE = 10_000  # columns that no table has
WHOLE_UID, SHORT_UID = 32, 12  # digits of a pseudonym in a table, and in a narrow one


class Command(Protocol):
    """A command: a module of `corlld.commands` that `corlld.cli` lists.

    NAME: the word on the command line; its last part is the module's name. HELP: the command's line in `corlld --help`:
    verb first, without a full stop. DESCRIPTION: sentences. EPILOG: examples and exit codes, in lines of at most
    `HELP_COLUMNS`.
    """

    NAME: str
    HELP: str
    DESCRIPTION: str
    EPILOG: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments and options to its own parser."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Run the command and return its exit code. What takes long to import is imported here."""


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
    description: str,
    epilog: str,
) -> argparse.ArgumentParser:
    """Add the parser of a command, or of an action below a command.

    Args:
        subparsers: where it is added.
        name: the word on the command line.
        summary: its line in the help above it.
        description: sentences, wrapped here.
        epilog: lines, kept as they are.
    """
    return subparsers.add_parser(
        name,
        help=summary,
        description=textwrap.fill(description, HELP_COLUMNS),
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add `--config`, which `load` reads."""
    parser.add_argument(
        "--config",
        type=file_path,
        metavar="FILE",
        help="read settings from this TOML file (default: /etc/corlld/corlld.toml if it exists); "
        "CORLLD_<SECTION>__<KEY> in the environment overrides it",
    )


def file_path(text: str) -> Path:
    """Convert an argument: a shell does not expand the `~` of `--option=~/file`. Raises ArgumentTypeError."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def positive(text: str) -> int:
    """Convert an argument. Raises ArgumentTypeError unless it is a whole number of at least 1."""
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return number


def load(arguments: argparse.Namespace, *, quiet: bool = False) -> "Settings":
    """Load the settings and configure the logs by them.

    Args:
        arguments: of a command with `add_config`.
        quiet: log only warnings and errors, unless the settings set another level than `info`. For commands whose
            progress bar or table says what the log would.

    Raises ConfigurationError.
    """
    from corlld.operations.logs import configure_logging
    from corlld.settings.load import load_settings

    configure_logging("info", "auto")  # until the settings are known
    settings = load_settings(arguments.config)
    level, form = settings.operations.log_level, settings.operations.log_format
    configure_logging("warning" if quiet and level == "info" else level, form)
    return settings


def log_warnings_alone() -> None:
    """Configure the logs of a command that has no settings and whose tables say what the log would."""
    from corlld.operations.logs import configure_logging

    configure_logging("warning", "auto")


def stdout_console(*, soft_wrap: bool = False) -> Console:
    """Return a console on standard output, wide enough for a table if that is a file or a pipe."""
    return Console(highlight=False, soft_wrap=soft_wrap, width=None if sys.stdout.isatty() else PIPE_COLUMNS)


def stderr_console() -> Console:
    """Return a console on standard error, for progress."""
    return Console(stderr=True, soft_wrap=True)  # lines of the log that a live display prints stay whole


def print_table(console: Console, whole: Table, narrow: Table) -> None:
    """Print the whole table if the console is wide enough for it, or else the narrow one, and where the rest is."""
    unbounded = console.options.update(max_width=WIDEST_TABLE)  # else rich measures what it would cut
    needed = console.measure(whole, options=unbounded).maximum
    if needed <= console.width:
        console.print(whole)
    else:
        console.print(narrow)
        console.print(f"a terminal of {needed} columns shows more of each line, and --json all", markup=False)


def read_user(user: str) -> str:
    """Return the user id that the argument USER gives.

    `-` reads it from standard input, since everyone on the machine can see a command line.

    Raises FatalError for a text that no event can have as its user_id: its pseudonym would be nobody's.
    """
    from corlld.events.decoder import MAX_USER_ID_CHARS

    try:
        user = sys.stdin.read().rstrip("\n") if user == "-" else user
        user.encode()  # bytes of a command line that are no text are half characters here
    except UnicodeError:
        raise FatalError("USER: not text in UTF-8", ExitCode.USAGE) from None
    if not 0 < len(user) <= MAX_USER_ID_CHARS:
        raise FatalError(f"USER: a user_id has 1 to {MAX_USER_ID_CHARS} characters", ExitCode.USAGE)
    return user


def typed_command() -> str:
    """Return the command line as it was typed, for the files of results."""
    return shlex.join(["corlld", *sys.argv[1:]])
