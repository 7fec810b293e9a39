"""Pictures of a closed loop. Needs matplotlib, from the extra `demo`."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

COLOURS = ("#1f77b4", "#d9541e", "#2a9d5c", "#7a4fb5")  # told apart by the colour-blind, too


def plot_edit_ratio(
    path: Path, ratios: Mapping[str, Sequence[float]], held_out: Mapping[str, tuple[float, float]], window: int
) -> None:
    """Edit ratio against the number of edits, a line a user.

    Args:
        path: a PNG file, written over.
        ratios: of each user's edits, in order.
        held_out: each user's mean distance on held-out prompts, before and after.
        window: edits in a running mean.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)  # never a window
    axes = figure.subplots()
    for (user, values), colour in zip(ratios.items(), COLOURS, strict=False):
        numbers = range(1, len(values) + 1)
        axes.plot(numbers, values, ".", color=colour, alpha=0.3)
        axes.plot(numbers, running_mean(values, window), color=colour, label=f"{user}, mean of the last {window}")
        before, after = held_out[user]
        axes.plot(
            [0, len(values) + 1], [before, after], "D--", color=colour, alpha=0.6, label=f"{user}, held-out prompts"
        )
    axes.set(xlabel="number of edits", ylabel="edit ratio", ylim=(-0.02, 1.02), title="How much of a draft is changed")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last `window` values at each place; of fewer at the beginning."""
    return [statistics.fmean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]
