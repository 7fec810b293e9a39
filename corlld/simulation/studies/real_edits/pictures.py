"""Pictures of the study `real-edits`. Needs matplotlib, from the extra `demo`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from corlld.simulation.drawing import COLOURS, LOOKS, add_legend, new_picture
from corlld.simulation.studies.contract import Figure


def plot_rises(
    path: Path,
    ends: Sequence[int],
    rises: Mapping[str, Sequence[Figure]],
    editors: Mapping[str, Mapping[str, float]],
) -> None:
    """Plot how much likelier edited texts have become before they are learnt from.

    Args:
        path: a PNG file; an older one is replaced.
        ends: edits of each editor so far, one number per figure of a rule. A rule may have fewer figures.
        rises: the mean rise of the edits so far, in nats per token, by rule.
        editors: the mean rise by rule and editor.
    """
    figure = new_picture(12, 5)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for (colour, line, _), (rule, figures) in zip(LOOKS, rises.items(), strict=False):
        own = ends[: len(figures)]
        left.plot(own, [f.value for f in figures], line, color=colour, label=rule)
        left.fill_between(own, *zip(*[(f.low, f.high) for f in figures], strict=True), color=colour, alpha=0.12)
    left.set(xlabel="edits of each editor so far", ylabel="nats per token", title="Mean so far; 95 % over commits")
    names = sorted({name for own in editors.values() for name in own})
    for (colour, _, mark), means in zip(LOOKS, editors.values(), strict=False):
        places = [names.index(name) for name in means]
        right.plot(places, list(means.values()), mark, color=colour)
    right.set_xticks(range(len(names)), [name.removeprefix("editor ") for name in names])
    right.set(xlabel="editor", ylabel="nats per token", title="Each editor's mean")
    for axes in (left, right):
        axes.axhline(0, color="black", linewidth=0.8)
        axes.grid(alpha=0.3)
    figure.suptitle("Rise of log pi(edited) over the base model, before the edit is learnt from")
    add_legend(figure)
    figure.savefig(path, dpi=100)


def plot_persons(path: Path, control: Mapping[str, tuple[Figure, Figure]]) -> None:
    """Plot whose adapter makes an editor's later edits likelier.

    Args:
        path: a PNG file; an older one is replaced.
        control: by rule the rise by the editor's own adapter, and by another editor's, in nats per token.
    """
    figure = new_picture(8, 4.5)
    axes = figure.subplots()
    for place, figures in enumerate(control.values()):
        for shift, shown, colour, label in zip(
            (-0.1, 0.1), figures, COLOURS, ("own adapter", "another editor's"), strict=False
        ):
            if shown.low is not None and shown.high is not None:
                axes.vlines(place + shift, shown.low, shown.high, color=colour)
            axes.plot([place + shift], [shown.value], "o", color=colour, label=label if place == 0 else None)
    axes.set_xlim(-0.5, len(control) - 0.5)
    axes.set_xticks(range(len(control)), [name.replace(" + ", " +\n") for name in control], fontsize="small")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(ylabel="nats per token", title="Second halves: rise by adapters that have learnt from first halves (95 %)")
    axes.grid(alpha=0.3, axis="y")
    add_legend(figure)
    figure.savefig(path, dpi=100)
