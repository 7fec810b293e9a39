"""Parts that all pictures share: colours, an empty picture, running means. Needs matplotlib, from the extra `demo`."""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

COLOURS = ("#1f77b4", "#d9541e", "#2a9d5c", "#7a4fb5", "#a07d12")  # colour-blind readers can tell them apart
# Colour, line and mark of each of many things in one picture.
LOOKS = tuple((colour, line, mark) for line, mark in (("-", "o"), ("--", "x")) for colour in COLOURS)


def new_picture(width: float, height: float) -> "Picture":
    """Return an empty picture of this size in inches. It never opens a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(picture)
    return picture


def legend_below(picture: "Picture", columns: int) -> None:
    """Add one legend for all panels, below them: there it hides no data. A label of several panels is shown once."""
    handles: dict[str, Any] = {}
    for axes in picture.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    picture.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize="small")


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of the last `window` values at each index; the first means are of fewer values."""
    return [statistics.fmean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]
