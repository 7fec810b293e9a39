"""The picture of the demo."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure as Picture

from corlld.simulation import demo_picture, drawing
from corlld.simulation.demo_picture import Curves, plot_edits

CURVES = Curves([0.9, 0.5, 0.1], [0.0, 0.1, 0.0], (0.8, 0.2))


def test_the_picture_is_a_png_of_a_readable_size(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    plot_edits(file, {"mira": CURVES}, window=2)
    data = file.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(data[16:20], "big") >= 800  # its width


def test_the_legend_names_each_user_once_and_hides_no_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Picture] = []

    def new_picture(width: float, height: float) -> Picture:
        drawn.append(drawing.new_picture(width, height))
        return drawn[0]

    monkeypatch.setattr(demo_picture, "new_picture", new_picture)
    plot_edits(tmp_path / "picture.png", {"mira": CURVES, "ines (holdout)": CURVES}, window=2)

    (legend,) = drawn[0].legends
    named = [text.get_text() for text in legend.get_texts()]
    assert sorted(named) == sorted(set(named))
    assert [name for name in named if "holdout" in name] == [
        "ines (holdout), mean of 2",
        "ines (holdout), held-out prompts",
    ]
    for axes in drawn[0].axes:
        assert axes.get_legend() is None
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())
