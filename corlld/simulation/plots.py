"""Pictures of a closed loop. Needs matplotlib, from the extra `demo`."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COLOURS = ("#1f77b4", "#d9541e", "#2a9d5c", "#7a4fb5", "#a07d12")  # told apart by the colour-blind, too


@dataclass(frozen=True, slots=True)
class Curves:
    """One user's edits, in order.

    edit_ratios: how much of each draft was changed, 0 to 1. repetitions: share of repeated words in each draft, 0 to 1.
    held_out: mean distance on held-out prompts, before the first edit and after the last.
    """

    edit_ratios: Sequence[float]
    repetitions: Sequence[float]
    held_out: tuple[float, float]


def plot_edits(path: Path, users: Mapping[str, Curves], window: int) -> None:
    """Edit ratio, and repetition in the drafts, against the number of edits; a colour a user.

    Args:
        path: a PNG file, written over.
        users: at most as many as there are colours.
        window: edits in a running mean.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)  # never a window
    effort, soundness = figure.subplots(2, sharex=True)
    for (user, curves), colour in zip(users.items(), COLOURS, strict=False):
        count = len(curves.edit_ratios)
        for axes, values in ((effort, curves.edit_ratios), (soundness, curves.repetitions)):
            axes.plot(range(1, count + 1), values, ".", color=colour, alpha=0.25)
            label = f"{user}, mean of {window}"
            axes.plot(range(1, count + 1), running_mean(values, window), color=colour, label=label)
        label = f"{user}, held-out prompts"
        effort.plot([0, count + 1], curves.held_out, "D", color=colour, markersize=8, label=label)
    effort.set(ylabel="edit ratio", ylim=(-0.02, 1.02), title="How much of a draft its user changes")
    soundness.set(xlabel="number of edits", ylabel="repetition", ylim=(-0.02, 1.02), title="Repeated words in a draft")
    for axes in (effort, soundness):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last `window` values at each place; of fewer at the beginning."""
    return [statistics.fmean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]
