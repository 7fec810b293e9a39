"""The meaning of each exit code: one declaration, printed by `corlld --help` and as the table in `deploy/README.md`.

The epilogs of single commands name only what is special to them.
"""

import re
import signal
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from corlld.commands.shared import HELP_COLUMNS
from corlld.errors import ExitCode

CANNOT_HELP, MAY_HELP = "cannot help", "may help"
_LINK = re.compile(r"\[([^]]+)\]\([^)]+\)")


class Meaning(NamedTuple):
    """A code in words. meaning: Markdown, without a full stop. restart: what a restart does; empty for a success."""

    code: int
    meaning: str
    restart: str = ""


MEANINGS = (
    Meaning(ExitCode.OK, "done, or stopped by a signal"),
    Meaning(ExitCode.USAGE, "the command line is wrong, or a file of events that it names can't be read", CANNOT_HELP),
    Meaning(
        ExitCode.DATA,
        "input refused: a file (not followed) with too many dead letters, a file that shrank, was replaced, is in "
        "another format or has no valid event, a recreated topic, offsets out of range, a damaged batch. Or the states "
        "or versions of too many users can't be used. In `send`: an event that is not valid. In `check --sample`: too "
        "many such events (`dead_letters.max_share`), or no valid one. In `state` and `explain`: no store, no such "
        "user, or a state that can't be read. In `state verify`: any problem. In `state repair`: something is not "
        "repaired, as always without `--yes`. In `experiment`: no store. In `dead-letters`: no letter matches, or a "
        "letter can't be sent back",
        CANNOT_HELP,
    ),
    Meaning(
        ExitCode.UNAVAILABLE,
        "broker or topic was not reached within `operations.startup_timeout_seconds` (all commands but `run`: 7 "
        "seconds, if it is known what is in the way), the broker stopped acknowledging (`send`, `dead-letters "
        "replay`, `state repair`), the model or the bucket could not be reached, there is too little free memory for "
        "the model, its GPU or its disk does not answer, or the port of `operations.http_address` is taken",
        MAY_HELP,
    ),
    Meaning(
        ExitCode.INTERNAL,
        "a bug. Or the daemon hung: it had not ended 12 seconds after `operations.shutdown_timeout_seconds`, or a "
        "second signal came, so it ended itself. The log says `gave_up` and where it hung. Nothing is lost",
        MAY_HELP,
    ),
    Meaning(
        ExitCode.CANNOT_WRITE,
        "a folder or file of the state store, the adapters or the dead letters can't be read or written: a right or "
        "space is missing, or the disk fails. Or the log or standard output can't be written",
        MAY_HELP,
    ),
    Meaning(
        ExitCode.CONFIGURATION,
        "wrong settings, a file that can't be read (of settings, or one that they name), a model that corlld can't "
        "train, a missing Python package or [right on Kafka](#rights-on-kafka), or a state store that belongs to other "
        "settings or to a newer corlld",
        CANNOT_HELP,
    ),
    Meaning(
        128 + signal.SIGINT,
        "interrupted by Ctrl-C. A daemon whose loop already runs exits with 0 instead",
    ),
    Meaning(
        128 + signal.SIGTERM,
        "SIGTERM in the first second of the start, or a second SIGTERM. Nothing is lost: what was not durable is not "
        "committed",
    ),
)


def help_lines() -> Iterator[str]:
    """Yield the lines of the help, of at most `HELP_COLUMNS`: codes with their meanings."""
    for code, meaning, _ in MEANINGS:
        text = _LINK.sub(r"\1", meaning)
        yield textwrap.fill(text, HELP_COLUMNS, initial_indent=f"  {code:<5}", subsequent_indent=" " * 7)


def markdown_table() -> str:
    """Return the table of the guide."""
    rows = (f"| {code} | {meaning} |{f' {restart}' if restart else ''} |" for code, meaning, restart in MEANINGS)
    return "\n".join(("| exit code | meaning | a restart |", "|---|---|---|", *rows))
