"""`corlld check`: its options. What is looked at is in `inspection`."""

import argparse

from corlld.commands.shared import add_config, load, positive, stderr_console, stdout_console

MAX_SAMPLE = 100_000

NAME = "check"
HELP = "check settings, broker, topics, model and state store, and print what was found"
DESCRIPTION = (
    "Check everything that `corlld run` needs: settings, broker, topics, model, memory, state store and the folder of "
    "adapters. Print a line for each; what takes long is named on standard error meanwhile. A check makes no topic and "
    "no store, joins no group and commits nothing."
)
EPILOG = """\
examples:
  corlld check                  is everything there that `corlld run` needs?
  corlld check --sample 1000    ... and is my producer right? Shares, reasons
                                and sizes, never a text or a user id

The exit code is that of the first problem (see `corlld --help`). It is 65 if
the sample has more dead letters than dead_letters.max_share allows, or no valid
event.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `Command`."""
    add_config(parser)
    parser.add_argument(
        "--sample",
        type=_sample_size,
        metavar="N",
        help=f"also decode the newest N records (at most {MAX_SAMPLE:,}) and print what they hold",
    )


def run(arguments: argparse.Namespace) -> int:
    """See `Command`."""
    from corlld.commands.inspection import check

    return check(load(arguments), stdout_console(soft_wrap=True), stderr_console(), sample=arguments.sample)


def _sample_size(text: str) -> int:
    if (number := positive(text)) > MAX_SAMPLE:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_SAMPLE}")
    return number
