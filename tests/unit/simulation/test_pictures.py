"""Every picture, drawn from the studies' own results: no legend hides data, each axis has its unit, nothing is cut."""

import csv
import json
from pathlib import Path

import pytest
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Picture
from matplotlib.legend import Legend
from matplotlib.ticker import FixedFormatter, FuncFormatter

from corlld.simulation.demo_picture import Curves, plot_edits
from corlld.simulation.studies.catalogue import find_study
from corlld.simulation.studies.contract import Options, Row
from corlld.simulation.studies.real_edits.report import Report
from corlld.simulation.studies.real_edits.rules import RULES

EVIDENCE = Path(__file__).parents[2] / "evidence"
RESULTS = sorted(EVIDENCE.glob("*/results.csv"))
USERS = {user: Curves([0.9, 0.5, 0.1] * 20, [0.0, 0.1, 0.0] * 20, (0.8, 0.2)) for user in ("mira", "jonas", "ines")}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Picture]:
    pictures: dict[str, Picture] = {}
    monkeypatch.setattr(Picture, "savefig", lambda picture, path, **_: pictures.update({Path(path).name: picture}))
    return pictures


def faults(picture: Picture) -> list[str]:
    """Return what a reader of the picture would miss."""
    picture.canvas.draw()
    found = []
    panels = [axes for axes in picture.axes if axes.axison]
    for legend in picture.findobj(Legend):
        box = legend.get_window_extent()
        found += [f"a legend lies over {axes.get_title()!r}" for axes in panels if box.overlaps(axes.bbox)]
    for axes in panels:
        found += [f"{axes.get_title()!r}: no unit" for axis in (axes.xaxis, axes.yaxis) if lacks_unit(axis)]
    whole = picture.get_tightbbox()
    width, height = picture.get_size_inches()
    if whole.x0 < 0 or whole.y0 < 0 or whole.x1 > width or whole.y1 > height:
        found.append("cut off")
    return found


def lacks_unit(axis: Axis) -> bool:
    shown = any(label.get_visible() and label.get_text() for label in axis.get_ticklabels())
    named = isinstance(axis.get_major_formatter(), (FixedFormatter, FuncFormatter))  # names in place of numbers
    return shown and not named and not axis.get_label_text()


def value(text: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


@pytest.mark.parametrize("results", RESULTS, ids=[file.parent.name for file in RESULTS])
def test_a_studys_pictures_can_be_read(results: Path, tmp_path: Path, drawn: dict[str, Picture]) -> None:
    with results.open(newline="") as file:
        rows: list[Row] = [{k: value(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    summary = json.loads((results.parent / "summary.json").read_text())
    if summary["study"] == "real-edits":  # its figures need the archive
        Report(rows, RULES).draw(tmp_path)
    else:
        options = Options(tuple(summary["seeds"]), quick=False, model="demo", edits=None)
        find_study(summary["study"]).report(rows, tmp_path, options)
    assert set(drawn) == {file.name for file in results.parent.glob("*.png")}
    assert {name: faults(picture) for name, picture in drawn.items()} == {name: [] for name in drawn}


def test_the_demos_picture_can_be_read_and_marks_the_holdout(tmp_path: Path, drawn: dict[str, Picture]) -> None:
    plot_edits(tmp_path / "edits.png", USERS, window=8, holdout="ines")
    [picture] = drawn.values()
    assert faults(picture) == []
    [legend] = picture.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names[:3] == ["mira", "jonas", "ines (holdout: nothing is learnt)"]
    assert [line.get_linestyle() for line in legend.get_lines()[:3]] == ["-", "-", "--"]
