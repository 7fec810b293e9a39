"""`corlld settings`: every setting with its default, as a file to start from or as tables."""

import argparse

from corlld.errors import ExitCode

NAME = "settings"
HELP = "print every setting with its default, as a commented TOML file"
DESCRIPTION = "Print every setting with its default, as a commented TOML file."
EPILOG = """\
examples:
  corlld settings > corlld.toml       a file to start from
  corlld check --config corlld.toml   is it complete?
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `Command`."""
    parser.add_argument("--markdown", action="store_true", help="print the page deploy/SETTINGS.md")


def run(arguments: argparse.Namespace) -> int:
    """See `Command`."""
    from corlld.settings.words import render_default_toml, render_markdown

    print(render_markdown() if arguments.markdown else render_default_toml(), end="")
    return ExitCode.OK
