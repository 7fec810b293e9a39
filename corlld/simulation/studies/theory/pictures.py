"""Pictures of the study `theory`. Needs matplotlib, from the extra `demo`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from corlld.simulation.drawing import COLOURS, add_legend, new_picture
from corlld.simulation.studies.contract import Row
from corlld.simulation.studies.rows import chosen

_WAYS = {"perceptron": 2.0, "corll": 4.0}  # the factor of the bound by way to learn


def plot_regret(path: Path, rows: Sequence[Row]) -> None:
    """Plot regret without noise against rounds.

    One colour per alpha; bounds are dashed. One column per way to learn, one row per kind of drafts.
    """
    figure = new_picture(9, 7)
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    marks = np.array(_marks(rows))
    for draws, line in zip(("argmax", "sampled"), grid, strict=True):
        for (way, factor), axes in zip(_WAYS.items(), line, strict=True):
            for alpha, colour in zip(sorted({float(row["alpha"]) for row in rows}), COLOURS, strict=False):
                values = _regrets(rows, way=way, drafts=draws, alpha=alpha, noise="none")
                axes.plot(marks, values.mean(0), color=colour, label=f"alpha {alpha:g}, mean of seeds")
                axes.fill_between(marks, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
                if draws == "argmax":
                    axes.plot(
                        marks, factor / (alpha * np.sqrt(marks)), "--", color=colour, label=f"bound at alpha {alpha:g}"
                    )
            bound = f"bound {factor:g}/(alpha sqrt T)" if draws == "argmax" else "no bound is known"
            axes.set(xscale="log", yscale="log", title=f"{way}, {draws} drafts: {bound}")
            axes.grid(alpha=0.3)
    for axes in grid[1]:
        axes.set(xlabel="rounds T")
    for axes in grid[:, 0]:
        axes.set(ylabel="regret REG_T (utility)")
    figure.suptitle("Honest but weak users; bands from the lowest seed to the highest")
    add_legend(figure)
    figure.savefig(path, dpi=100)


def plot_plateaus(path: Path, rows: Sequence[Row]) -> None:
    """Plot mean gaps between marks against rounds, at alpha 0.3 with argmax drafts.

    Harm is scaled with the gap on the left, and not on the right.
    """
    figure = new_picture(9, 4.6)
    marks = np.array(_marks(rows))
    for noise, axes in zip(("scaled", "unscaled"), figure.subplots(1, 2, sharey=True), strict=True):
        lines = [
            ("corll", 0.0, "none"),
            *((way, e, noise) for e in (0.2, 0.4) for way in ("corll", "corll+acceptances")),
        ]
        for way, epsilon, kind in lines:
            values = _regrets(rows, way=way, drafts="argmax", alpha=0.3, epsilon=epsilon, noise=kind)
            windows = np.diff(values * marks) / np.diff(marks)  # mean gap from one mark to the next
            colour = COLOURS[{0.0: 2, 0.2: 0, 0.4: 1}[epsilon]]
            style = "--" if "accept" in way else "-"
            half = 2 * windows.std(0) / np.sqrt(len(windows))
            axes.plot(marks[1:], windows.mean(0), style, color=colour, label=f"{way}, epsilon {epsilon:g}")
            low, high = np.maximum(windows.mean(0) - half, 1e-5), windows.mean(0) + half
            axes.fill_between(marks[1:], low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set(
            xscale="log", yscale="log", xlabel="rounds T", title=f"Harm {noise}" + " with the gap" * (noise == "scaled")
        )
        axes.grid(alpha=0.3)
        if noise == "scaled":
            axes.set(ylabel="mean gap from T/2 to T (utility)")
    figure.suptitle("Noisy users, alpha 0.3, argmax drafts; bands of two standard errors")
    add_legend(figure)
    figure.savefig(path, dpi=100)


def _marks(rows: Sequence[Row]) -> list[int]:
    return sorted(int(name.removeprefix("regret_")) for name in rows[0] if name.startswith("regret_"))


def _regrets(rows: Sequence[Row], **where: object) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return regrets of the chosen rows, (seeds, marks)."""
    found = chosen(rows, **where)
    return np.array([[float(row[f"regret_{mark}"]) for mark in _marks(rows)] for row in found])
