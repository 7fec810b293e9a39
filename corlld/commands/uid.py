"""`corlld uid`: the pseudonym of a user."""

import argparse

from corlld.commands.shared import add_config, load, read_user
from corlld.errors import ExitCode

NAME = "uid"
HELP = "print a user's pseudonym, by which files, logs and topics name the user"
DESCRIPTION = (
    "Print a user's pseudonym (uid), by which files, logs and topics name the user. "
    "It is made from the user_id with identity.secret."
)
EPILOG = """\
examples:
  corlld uid ann
  corlld uid - < user_id.txt     keeps the id out of the list of processes
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `Command`."""
    add_config(parser)
    parser.add_argument("user", metavar="USER", help="the user_id of the events; `-` reads it from standard input")


def run(arguments: argparse.Namespace) -> int:
    """See `Command`. Raises FatalError for a USER that no event can have, ConfigurationError without a secret."""
    from corlld.assembly import pseudonyms

    print(pseudonyms(load(arguments)).uid(read_user(arguments.user)))
    return ExitCode.OK
