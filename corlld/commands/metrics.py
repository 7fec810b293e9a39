"""`corlld metrics`: every metric with its type, its labels and its meaning."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from corlld.commands.shared import stdout_console
from corlld.errors import ExitCode

if TYPE_CHECKING:
    from corlld.operations.declarations import Description

NAME = "metrics"
HELP = "print every metric with its type, its labels and its meaning"
DESCRIPTION = "Print every metric that the daemon serves under /metrics, with its type, its labels and its meaning."
EPILOG = """\
examples:
  corlld metrics
  corlld metrics --markdown | grep dead_letter
"""
_PAGE_HEAD = """\
# Metrics

`make docs` writes this page. Do not edit it.

The daemon serves these metrics at `/metrics`: see [Watch it](README.md#watch-it). Counters count again what a restart
replays. The figures in the users' states do not: see `corlld state show --json`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `Command`."""
    parser.add_argument("--markdown", action="store_true", help="print the page deploy/METRICS.md")


def run(arguments: argparse.Namespace) -> int:
    """See `Command`."""
    from corlld.operations.prometheus import Metrics

    descriptions = Metrics(started_at=0.0, buffer_limit_events=0).descriptions
    if arguments.markdown:
        print(markdown(descriptions), end="")
    else:
        stdout_console().print(_table(descriptions))
    return ExitCode.OK


def markdown(descriptions: Sequence["Description"]) -> str:
    """Return the page deploy/METRICS.md: a heading and a table."""
    lines = [_PAGE_HEAD, "| metric | type | labels | meaning |", "|---|---|---|---|"]
    for each in descriptions:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        lines.append(f"| `{each.name}` | {each.type} | {labels} | {each.help.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _table(descriptions: Sequence["Description"]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("metric", no_wrap=True)
    for column in ("type", "labels", "meaning"):
        shown.add_column(column)
    for each in descriptions:
        shown.add_row(each.name, each.type, ", ".join(each.labels), each.help)
    return shown
