"""Pictures of the language world, in a quick run too: nothing is cut off, and each point has its name."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure as Picture

from corlld.simulation.drawing import COLOURS
from corlld.simulation.studies.contract import Figure, Row
from corlld.simulation.studies.language_world.methods import CHANGED, CORLL, NOTHING
from corlld.simulation.studies.language_world.pictures import _forest, plot_regret


@pytest.mark.parametrize("scenarios", [("honest",), ("honest", "scaled")])
def test_the_title_of_the_regret_fits(
    scenarios: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Row] = [
        {"scenario": scenario, "method": method, "seed": seed, "regret": 0.4, "to_10": 0.4, "to_20": 0.3}
        for scenario in scenarios
        for method in (NOTHING.name, CORLL.name, *([CHANGED.name] if scenario == "scaled" else []))
        for seed in (1, 2)
    ]
    drawn: list[Picture] = []
    monkeypatch.setattr(Picture, "savefig", lambda picture, *_, **__: drawn.append(picture))
    plot_regret(tmp_path / "regret.png", rows)
    [picture] = drawn
    picture.canvas.draw()  # type: ignore[no-untyped-call]  # untyped in matplotlib
    [title] = picture.texts
    extent = title.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= picture.bbox.width


def test_a_single_point_beside_its_place_has_its_name_in_view() -> None:
    axes = Picture().subplots()
    _forest(axes, ["beta 0.03"], [Figure(0.1, "", 0.0, 0.2)], COLOURS[0], -0.15)
    axes.plot(0.2, -0.15, "x")
    low, high = axes.get_ylim()
    assert low <= axes.get_yticks()[0] <= high
