"""Pictures of the study `language-world`. Needs matplotlib, from the extra `demo`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from corlld.simulation.drawing import COLOURS, add_legend, new_picture
from corlld.simulation.studies.contract import Figure, Row
from corlld.simulation.studies.intervals import mean_figure
from corlld.simulation.studies.language_world.methods import CHANGED, CORLL, NOTHING, PAIR_DPO, SFT, TAILS
from corlld.simulation.studies.language_world.report import DIFFERENCE, DRAFTS, GRID, GRID_TUNING, by_seed
from corlld.simulation.studies.rows import chosen

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLES = {
    "scaled": "a fifth of the edits harm, scaled with the gap",
    "unscaled": "a fifth of the edits harm, however small the gap",
    "honest": "no edit harms",
    "archive": "edits of the base model's drafts",
}

_METHODS = {
    NOTHING.name: "#777777",
    CORLL.name: COLOURS[0],
    TAILS.name: "#17becf",
    CHANGED.name: COLOURS[3],
    SFT.name: COLOURS[2],
    PAIR_DPO.name: COLOURS[1],
}


def plot_regret(path: Path, rows: Sequence[Row]) -> None:
    """Plot regret against the number of answers, one line per method with its 95 % band.

    The users' own levels are taken off.
    """
    shown = [name for name in _TITLES if any(row["scenario"] == name for row in rows)]
    columns = min(2, len(shown))
    picture = new_picture(5 * columns, 3.7 * -(-len(shown) // columns))
    grid = picture.subplots(-(-len(shown) // columns), columns, sharex=True, sharey=True, squeeze=False)
    ends = sorted(int(name.removeprefix("to_")) for name in rows[0] if name.startswith("to_"))
    for scenario, axes in zip(shown, grid.flat, strict=False):
        levels = by_seed(rows, "regret", method=NOTHING.name, scenario=scenario)
        for method, colour in _METHODS.items():
            own = {"method": method, "scenario": scenario}
            if not chosen(rows, **own):
                continue
            bands = [mean_figure(_levelled(by_seed(rows, f"to_{end}", **own), levels), "") for end in ends]
            axes.plot(ends, [band.value for band in bands], color=colour, label=method)
            low = [band.value if band.low is None else band.low for band in bands]
            high = [band.value if band.high is None else band.high for band in bands]
            axes.fill_between(ends, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set(title=_TITLES[scenario])
        axes.grid(alpha=0.3)
    for axes in grid[-1]:
        axes.set(xlabel="answers of the user")
    for axes in grid[:, 0]:
        axes.set(ylabel="regret (share of U's range)")
    join = "; " if columns > 1 else "\n"  # a single column is narrower than the sentence
    picture.suptitle(
        f"What a text lacks of the best sentence{join}bands: 95 % over users, without the users' own levels"
    )
    add_legend(picture)
    picture.savefig(path, dpi=90)


def _levelled(values: Sequence[float], levels: Sequence[float]) -> list[float]:
    """Return values by user as if all users had begun at the same level.

    How hard users are to please is not what is compared.
    """
    common = fmean(levels)
    return [value - level + common for value, level in zip(values, levels, strict=True)]


def plot_differences(path: Path, figures: Mapping[str, Figure], defaults: str) -> None:
    """Plot paired differences: CoRLL minus other methods, and changed settings minus the defaults."""
    methods = {name: f for name, f in figures.items() if name.startswith("regret_") and DIFFERENCE in name.split("_")}
    picture = new_picture(12, 7.5)
    left, right = picture.subplots(1, 2)
    labels = [name.removeprefix("regret_").replace(f"_corll_{DIFFERENCE}_", ": ") for name in methods]
    _forest(
        left,
        [label.replace("alpha_0_1", "alpha 0.1").replace("_", " ") for label in labels],
        list(methods.values()),
        COLOURS[0],
    )
    left.invert_yaxis()
    left.set(
        title="CoRLL minus another method (users: method)",
        xlabel="difference of REG_T (share of U's range); left is better",
    )
    for offset, drafts, colour in zip((-0.15, 0.15), DRAFTS, COLOURS, strict=False):
        cells = {
            name.removeprefix(f"{GRID}_{drafts}_"): figure
            for name, figure in figures.items()
            if name.startswith(f"{GRID}_{drafts}_") and not name.endswith(defaults)
        }
        if not cells:
            continue
        _forest(right, list(cells), list(cells.values()), colour, offset)
        judged = [figures[f"{GRID_TUNING}_{drafts}_{name}"].value for name in cells]
        places = np.arange(len(cells)) + offset
        right.plot(judged, places, "x", color=colour, label=f"{drafts} drafts (x: the validation seeds)")
    right.invert_yaxis()
    right.set(
        title="CoRLL: a changed setting minus the defaults",
        xlabel="difference of REG_T (share of U's range); left is better",
    )
    add_legend(picture)
    picture.savefig(path, dpi=90)


def _forest(axes: "Axes", labels: Sequence[str], figures: Sequence[Figure], colour: str, offset: float = 0.0) -> None:
    """Draw a point and its interval per label, from the top."""
    for place, figure in zip(np.arange(len(figures)) + offset, figures, strict=True):
        low = figure.value if figure.low is None else figure.low
        high = figure.value if figure.high is None else figure.high
        axes.plot([low, high], [place, place], color=colour)
        axes.plot(figure.value, place, "o", color=colour)
    axes.axvline(0, color="#777777", linewidth=1)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(-0.5, len(labels) - 0.5)
    axes.grid(alpha=0.3, axis="x")
