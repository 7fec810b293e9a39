"""The picture of the demo: effort and repetition per number of edits. Needs matplotlib, from the extra `demo`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corlld.simulation.drawing import COLOURS, legend_below, new_picture, running_mean


@dataclass(frozen=True, slots=True)
class Curves:
    """The edits of one user, in order.

    edit_ratios: share of each draft that was changed, 0 to 1. repetitions: share of repeated words in each draft, 0 to
    1. held_out: mean distance on held-out prompts, before the first edit and after the last.
    """

    edit_ratios: Sequence[float]
    repetitions: Sequence[float]
    held_out: tuple[float, float]


def plot_edits(path: Path, users: Mapping[str, Curves], window: int) -> None:
    """Plot edit ratio and repetition against the number of edits, one colour per user.

    Args:
        path: a PNG file; an older one is replaced.
        users: by the name that is shown; at most as many as there are colours.
        window: edits in a running mean.
    """
    picture = new_picture(8, 7)
    effort, soundness = picture.subplots(2, sharex=True)
    for (user, curves), colour in zip(users.items(), COLOURS, strict=False):
        count = len(curves.edit_ratios)
        for axes, values in ((effort, curves.edit_ratios), (soundness, curves.repetitions)):
            axes.plot(range(1, count + 1), values, ".", color=colour, alpha=0.25)
            label = f"{user}, mean of {window}"
            axes.plot(range(1, count + 1), running_mean(values, window), color=colour, label=label)
        label = f"{user}, held-out prompts"
        effort.plot([0, count + 1], curves.held_out, "D", color=colour, markersize=8, label=label)
    effort.set(ylabel="edit ratio", ylim=(-0.02, 1.02), title="Share of a draft that its user changes")
    soundness.set(xlabel="number of edits", ylabel="repetition", ylim=(-0.02, 1.02), title="Repeated words in a draft")
    for axes in (effort, soundness):
        axes.grid(alpha=0.3)
    legend_below(picture, columns=len(users))
    picture.savefig(path, dpi=110)
