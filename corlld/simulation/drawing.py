"""Parts that all pictures share: colours, an empty picture, its legend, running means.

Needs matplotlib, from the extra `demo`.
"""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

COLOURS = ("#1f77b4", "#d9541e", "#2a9d5c", "#7a4fb5", "#a07d12")  # colour-blind readers can tell them apart
# Colour, line and mark of each of many things in one picture.
LOOKS = tuple((colour, line, mark) for line, mark in (("-", "o"), ("--", "x")) for colour in COLOURS)
_WIDEST_LEGEND = 0.96  # share of the picture's width


def new_picture(width: float, height: float) -> "Picture":
    """Return an empty picture of this size in inches. It never opens a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(picture)
    return picture


def add_legend(picture: "Picture") -> None:
    """Add one legend for all panels, below them, where it hides no data. The picture grows by the legend's height.

    A label that several lines have is named once, with the look of the first line.
    """
    looks: dict[str, Any] = {}
    for axes in picture.axes:
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True):
            looks.setdefault(label, line)
    width, height = picture.get_size_inches()
    for columns in range(len(looks), 0, -1):
        legend = picture.legend(
            looks.values(), looks.keys(), loc="outside lower center", ncols=columns, fontsize="small"
        )
        extent = legend.get_window_extent()
        if extent.width <= _WIDEST_LEGEND * width * picture.dpi or columns == 1:
            picture.set_size_inches(width, height + extent.height / picture.dpi)
            return
        legend.remove()


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of the last `window` values at each index; the first means are of fewer values."""
    return [statistics.fmean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]
