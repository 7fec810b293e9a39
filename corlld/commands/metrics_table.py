"""What `corlld metrics` prints: every metric with its type, its labels and what it means."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from corlld.operations.prometheus import Description


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
    """For the README."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for each in descriptions:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        lines.append(f"| `{each.name}` | {each.type} | {labels} | {each.help.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"
