"""Pictures of the language world. Needs matplotlib, from the extra `demo`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from corlld.simulation.language.methods import ANCHORED, CORLL, NOTHING, PAIR_DPO, PREVIOUS, SFT
from corlld.simulation.plots import COLOURS
from corlld.simulation.studies.intervals import mean_figure
from corlld.simulation.studies.language_figures import DIFFERENCE, GRID, GRID_TUNING, column
from corlld.simulation.studies.study import Figure, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLES = {
    "scaled": "a fifth of the edits harm, as far as the gap goes",
    "unscaled": "a fifth of the edits harm, whatever the gap",
    "honest": "no edit harms",
    "archive": "edits of the base model's drafts",
}

_METHODS = {
    NOTHING.name: "#777777",
    CORLL.name: COLOURS[0],
    ANCHORED.name: "#17becf",
    PREVIOUS.name: COLOURS[3],
    SFT.name: COLOURS[2],
    PAIR_DPO.name: COLOURS[1],
}


def plot_regret(path: Path, rows: Sequence[Row]) -> None:
    """Regret against the number of answers, a line a method with its 95 % band."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    shown = [name for name in _TITLES if any(row["scenario"] == name for row in rows)]
    columns = min(2, len(shown))
    picture = Picture(figsize=(5 * columns, 3.7 * -(-len(shown) // columns)), layout="constrained")
    FigureCanvasAgg(picture)
    grid = picture.subplots(-(-len(shown) // columns), columns, sharex=True, sharey=True, squeeze=False)
    ends = sorted(int(name.removeprefix("to_")) for name in rows[0] if name.startswith("to_"))
    for scenario, axes in zip(shown, grid.flat, strict=False):
        for method, colour in _METHODS.items():
            own = {"method": method, "scenario": scenario}
            bands = [mean_figure(column(rows, f"to_{end}", **own), "") for end in ends]
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
    grid[0, 0].legend(fontsize="small")
    picture.suptitle("What a draft lacks of the best sentence; bands: 95 % of the mean over seeds")
    picture.savefig(path, dpi=90)


def plot_differences(path: Path, figures: Mapping[str, Figure]) -> None:
    """Paired differences with their intervals: CoRLL less other methods, and settings less the defaults."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    methods = {name: f for name, f in figures.items() if name.startswith("regret_") and DIFFERENCE in name.split("_")}
    cells = {name.removeprefix(f"{GRID}_"): f for name, f in figures.items() if name.startswith(f"{GRID}_")}
    cells = {name: figure for name, figure in cells.items() if f"{GRID_TUNING}_{name}" in figures}
    picture = Picture(figsize=(12, 7.5), layout="constrained")
    FigureCanvasAgg(picture)
    left, right = picture.subplots(1, 2)
    labels = [name.removeprefix("regret_").replace(f"_corll_{DIFFERENCE}_", ": ") for name in methods]
    _forest(left, [label.replace("_", " ") for label in labels], list(methods.values()), COLOURS[0])
    left.set(title="CoRLL less another method (users: method)", xlabel="difference of REG_T; left is better for CoRLL")
    _forest(right, list(cells), list(cells.values()), COLOURS[0])
    judged = [figures[f"{GRID_TUNING}_{name}"].value for name in cells]
    right.plot(judged, np.arange(len(cells)), "x", color=COLOURS[1], label="on the validation seeds")
    right.set(title="CoRLL: a setting changed, less the defaults", xlabel="difference of REG_T; left is better")
    right.legend(fontsize="small")
    picture.savefig(path, dpi=90)


def _forest(axes: "Axes", labels: Sequence[str], figures: Sequence[Figure], colour: str) -> None:
    """A point and its interval for each line, from the top."""
    for place, figure in enumerate(figures):
        low = figure.value if figure.low is None else figure.low
        high = figure.value if figure.high is None else figure.high
        axes.plot([low, high], [place, place], color=colour)
        axes.plot(figure.value, place, "o", color=colour)
    axes.axvline(0, color="#777777", linewidth=1)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
