"""Pictures of the study `real-edits`. Needs matplotlib, from the extra `demo`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corlld.simulation.drawing import COLOURS, new_picture
from corlld.simulation.studies.contract import Figure

_BLUE, _ORANGE, _GREEN, _PURPLE = COLOURS[:4]
_GREY = "#777777"


@dataclass(frozen=True, slots=True)
class _Look:
    """The look of a method. banded: drawn with its interval; all intervals at once could not be read."""

    label: str
    colour: str
    style: str = "-"
    banded: bool = False


_LOOKS = {
    "corll": _Look("corlld", _BLUE, banded=True),
    "chosen": _Look("corlld, chosen on validation editors", _BLUE, "-."),
    "sft": _Look("fine-tuning on edited texts", _GREEN),
    "words": _Look("word counts", _ORANGE, banded=True),
    "longer": _Look("the longer text", _ORANGE, ":"),
    "base": _Look("base model", _PURPLE, "--"),
    "flipped": _Look("corlld, labels by a coin", _GREY, "--"),
}


def plot_curves(
    path: Path,
    ends: Sequence[int],
    accuracy: Mapping[str, Sequence[Figure]],
    margins: Mapping[str, Sequence[Figure]],
) -> None:
    """Plot cumulative accuracy above and cumulative margin below, against the edits of each editor.

    Args:
        path: a PNG file; an older one is replaced.
        ends: edits of each editor so far, one number per figure of a method. A method may have fewer figures.
        accuracy: shares, 0 to 1, by method: corll, chosen, sft, words, longer, base, flipped.
        margins: in nats, by method.
    """
    figure = new_picture(8, 8)
    upper, lower = figure.subplots(2, sharex=True)
    for axes, methods in ((upper, accuracy), (lower, margins)):
        for name, figures in methods.items():
            look = _LOOKS[name]
            own = ends[: len(figures)]
            axes.plot(own, [f.value for f in figures], look.style, color=look.colour, label=look.label)
            if look.banded:
                lows, highs = [f.low for f in figures], [f.high for f in figures]
                axes.fill_between(own, lows, highs, color=look.colour, alpha=0.15, linewidth=0)
        axes.grid(alpha=0.3)
        axes.legend(ncols=2, fontsize="small")
    upper.axhline(0.5, color="black", linewidth=0.8)
    lower.axhline(0.0, color="black", linewidth=0.8)
    upper.set(
        ylabel="share of edits preferred",
        title="Real edits, each judged before it was learnt (mean so far; 95 % over commits)",
    )
    lower.set(xlabel="edits of each editor so far", ylabel="margin over the base model (nats)")
    figure.savefig(path, dpi=100)


def plot_persons(path: Path, control: Mapping[str, Figure], editors: Mapping[str, Mapping[str, Figure]]) -> None:
    """Plot whose adapter knows an editor's later edits, and the accuracy of each editor beside simple rules.

    Args:
        path: a PNG file; an older one is replaced.
        control: share of preferred edits in the second halves, by the adapter that scored them.
        editors: accuracy by editor and method, with the same methods for all editors.
    """
    figure = new_picture(12, 4.8)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 3))
    for place, shown in enumerate(control.values()):
        _point(left, place, shown, _LOOKS["chosen"])
    left.set_xticks(range(len(control)), list(control), fontsize="small")
    left.set(ylabel="share of edits preferred", title="Second halves, by an adapter\nthat has learnt from a first half")
    methods = list(next(iter(editors.values())))
    for number, method in enumerate(methods):
        shift, look = 0.16 * (number - (len(methods) - 1) / 2), _LOOKS[method]
        for place, figures in enumerate(editors.values()):
            _point(right, place + shift, figures[method], look, look.label if place == 0 else None)
    right.set_xticks(range(len(editors)), [name.replace(" ", "\n") for name in editors], fontsize="small")
    right.set(title="Each editor, prequential")
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.axhline(0.5, color="black", linewidth=0.8)
        axes.grid(alpha=0.3, axis="y")
        axes.margins(x=0.08)
    figure.suptitle("95 % intervals over commits", fontsize="medium")
    figure.savefig(path, dpi=100)


def _point(axes: Any, x: float, shown: Figure, look: _Look, label: str | None = None) -> None:
    filling = look.colour if look.style == "-" else "white"
    axes.vlines(x, shown.low, shown.high, color=look.colour, linewidth=1.5)
    axes.plot([x], [shown.value], "o", color=look.colour, markerfacecolor=filling, label=label)
