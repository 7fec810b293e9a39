"""The picture of the demo: effort and repetition per number of edits. Needs matplotlib, from the extra `demo`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corlld.simulation.drawing import COLOURS, add_legend, new_picture, running_mean


@dataclass(frozen=True, slots=True)
class Curves:
    """The edits of one user, in order.

    edit_ratios: share of each draft that was changed, 0 to 1. repetitions: share of repeated words in each draft, 0 to
    1. held_out: mean distance on held-out prompts, before the first edit and after the last.
    """

    edit_ratios: Sequence[float]
    repetitions: Sequence[float]
    held_out: tuple[float, float]


def plot_edits(path: Path, users: Mapping[str, Curves], window: int, holdout: str) -> None:
    """Plot edit ratio and repetition against the number of edits, one colour per user.

    Args:
        path: a PNG file; an older one is replaced.
        users: at most as many as there are colours.
        window: edits in a running mean.
        holdout: the user from whom nothing is learnt; drawn with dashes and hollow marks, and named so.
    """
    picture = new_picture(8, 7)
    effort, soundness = picture.subplots(2, sharex=True)
    for (user, curves), colour in zip(users.items(), COLOURS, strict=False):
        control = user == holdout
        label, line = (f"{user} (holdout: nothing is learnt)", "--") if control else (user, "-")
        inside = "none" if control else colour
        count = len(curves.edit_ratios)
        for axes, values in ((effort, curves.edit_ratios), (soundness, curves.repetitions)):
            axes.plot(range(1, count + 1), values, "o", color=colour, alpha=0.25, markersize=3, markerfacecolor=inside)
            axes.plot(range(1, count + 1), running_mean(values, window), line, color=colour, label=label)
        effort.plot([0, count + 1], curves.held_out, "D", color=colour, markersize=8, markerfacecolor=inside)
    for mark, size, meaning in (
        ("-", 3, f"mean of {window} edits"),
        ("o", 3, "one draft"),
        ("D", 8, "held-out prompts, before and after"),
    ):
        effort.plot([], [], mark, color="grey", markersize=size, label=meaning)
    effort.set(ylabel="edit ratio (share of a draft)", title="Share of a draft that its user changes")
    soundness.set(xlabel="number of edits", ylabel="repetition (share of words)", title="Repeated words in a draft")
    for axes in (effort, soundness):
        axes.set_ylim(-0.02, 1.02)
        axes.grid(alpha=0.3)
    add_legend(picture)
    picture.savefig(path, dpi=110)
