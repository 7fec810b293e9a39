"""The picture of the study `no-harm`. Needs matplotlib, from the extra `demo`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from corlld.simulation.drawing import COLOURS, add_legend, new_picture
from corlld.simulation.studies.contract import Row
from corlld.simulation.studies.no_harm.report import Band


def plot_harm(path: Path, rows: Sequence[Row], band: Band) -> None:
    """Plot four measures against the number of edits, one colour per kind of user.

    Args:
        path: a PNG file; an older one is replaced.
        rows: of the defaults and of variants. In the rows of a variant `user` is "user, variant"; its lines are dashed.
        band: limits of the noisy user, drawn as thin lines.
    """
    figure = new_picture(9, 7)
    kinds = list(dict.fromkeys(str(row["user"]) for row in rows))
    colours = dict(zip((kind for kind in kinds if "," not in kind), COLOURS, strict=False))
    seeds = {kind: len({row["seed"] for row in rows if row["user"] == kind}) for kind in kinds}
    labels = {kind: f"{kind}, {count} seed{'s' * (count > 1)}" for kind, count in seeds.items()}
    panels = (
        ("plain_ratio", "perplexity over the base model's", "Plain English that no user writes about"),
        ("draft_repetition", "repetition (share of words)", "Repetition in the user's own drafts"),
        ("canary_similarity", "similarity (1: the base model's)", "Drafts for prompts that no user asks"),
        ("drift_max", "nats per token", "Guard: largest drift of an update"),
    )
    for axes, (column, unit, title) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for kind in kinds:
            user, _, variant = kind.partition(",")
            colour, line = colours[user], "o--" if variant else "o-"
            known = [row for row in rows if row["user"] == kind and row.get(column, "") != ""]
            edits = sorted({int(row["edits"]) for row in known})
            values = [[float(row[column]) for row in known if row["edits"] == count] for count in edits]
            axes.plot(edits, [np.mean(part) for part in values], line, color=colour, markersize=4, label=labels[kind])
            low, high = [min(part) for part in values], [max(part) for part in values]
            axes.fill_between(edits, low, high, color=colour, alpha=0.05 if variant else 0.15, linewidth=0)
        if hasattr(band, column):
            axes.axhline(getattr(band, column), color=colours["noisy"], linewidth=0.7)
        axes.set(xlabel="edits of the user", ylabel=unit, title=title)
        axes.grid(alpha=0.3)
        if column == "plain_ratio":
            axes.set_yscale("log")
    figure.suptitle("Four kinds of users; bands: lowest to highest seed; thin lines: limits stated for the noisy user")
    add_legend(figure)
    figure.savefig(path, dpi=100)
