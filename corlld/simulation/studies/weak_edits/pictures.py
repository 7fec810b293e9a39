"""Pictures of the study `weak-edits`. Needs matplotlib, from the extra `demo`."""

from collections.abc import Mapping
from pathlib import Path

from corlld.simulation.drawing import COLOURS, add_legend, new_picture
from corlld.simulation.studies.contract import Figure
from corlld.simulation.studies.weak_edits.contestants import FINE_TUNING, NOTHING, PAIR_DPO
from corlld.simulation.studies.weak_edits.report import Curve

_GREY = "#777777"
_ACROSS = 3  # panels


def plot_learning(path: Path, curves: Mapping[str, Mapping[str, Curve]]) -> None:
    """Plot the distance of drafts, and of held-out drafts at the marks, by condition and rule.

    Args:
        path: a PNG file; an older one is replaced.
        curves: by condition and rule.
    """
    down, across = -(-len(curves) // _ACROSS), min(_ACROSS, len(curves))
    figure = new_picture(1 + 5 * across, 0.5 + 4.2 * down)
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    for axes, (condition, rules) in zip(panels.flat, curves.items(), strict=False):
        for rule, curve in rules.items():
            style, colour = _look(rule)
            axes.plot(curve.rounds, curve.distances, style, color=colour, label=rule, linewidth=1)
            axes.plot(curve.marks, curve.held_out, "D", color=colour, markersize=5)
        axes.set(title=condition, xlabel="drafts per writer", ylim=(0, 1))
        axes.grid(alpha=0.3)
    for axes in panels.flat[len(curves) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("distance from the wanted text (0 to 1)")
    figure.suptitle("Lines: drafts that are edited, mean of the last 8.\nDiamonds: held-out drafts. Less is better.")
    add_legend(figure)
    figure.savefig(path, dpi=100)


def plot_differences(path: Path, differences: Mapping[str, Mapping[str, Figure]]) -> None:
    """Plot the held-out distance of each rule minus that of fine-tuning, by condition.

    Args:
        path: a PNG file; an older one is replaced.
        differences: by condition and rule.
    """
    figure = new_picture(2.5 + 2.2 * len(differences), 4.5)
    axes = figure.subplots()
    named: set[str] = set()
    for place, rules in enumerate(differences.values()):
        for number, (rule, shown) in enumerate(rules.items()):
            x, (_, colour) = place + 0.1 * (number - (len(rules) - 1) / 2), _look(rule)
            if shown.low is not None and shown.high is not None:
                axes.vlines(x, shown.low, shown.high, color=colour)
            axes.plot([x], [shown.value], "o", color=colour, label=None if rule in named else rule)
            named.add(rule)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(differences)), [name.replace(", ", "\n") for name in differences], fontsize="small")
    axes.set(
        ylabel="held-out distance (0 to 1) minus fine-tuning's", title="95 % over writers and seeds; below 0 is better"
    )
    axes.grid(alpha=0.3, axis="y")
    add_legend(figure)
    figure.savefig(path, dpi=100)


def _look(rule: str) -> tuple[str, str]:
    """Return style and colour of a rule."""
    fixed = {NOTHING.name: (":", _GREY), FINE_TUNING.name: ("--", "black"), PAIR_DPO.name: ("-.", COLOURS[1])}
    learning = ("changed + imitation .1", "changed", "tail", "changed + imitation 1", "tail + imitation .1")
    colours = dict(zip(learning, (COLOURS[0], COLOURS[2], COLOURS[3], COLOURS[4], "#c05fa0"), strict=True))
    return fixed.get(rule) or ("-", colours.get(rule, _GREY))
