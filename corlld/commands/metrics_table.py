"""What `corlld metrics` prints: every metric with its type, its labels and what it means."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from corlld.operations.prometheus import Description

_PAGE_HEAD = """\
# Metrics

`make docs` writes this page. Do not edit it.

The daemon serves these metrics at `/metrics`: see [Watch it](README.md#watch-it). Counters count again what a restart
replays. The figures in the users' states do not: see `corlld state show --json`.
"""


def table(descriptions: Sequence[Description]) -> Table:
    """For people."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("metric", no_wrap=True)
    for column in ("type", "labels", "meaning"):
        shown.add_column(column)
    for each in descriptions:
        shown.add_row(each.name, each.type, ", ".join(each.labels), each.help)
    return shown


def markdown(descriptions: Sequence[Description]) -> str:
    """Return the page deploy/METRICS.md: a heading and a table."""
    lines = [_PAGE_HEAD, "| metric | type | labels | meaning |", "|---|---|---|---|"]
    for each in descriptions:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        lines.append(f"| `{each.name}` | {each.type} | {labels} | {each.help.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"
