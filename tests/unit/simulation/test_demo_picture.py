"""The picture of the demo."""

from pathlib import Path

from corlld.simulation.demo_picture import Curves, plot_edits


def test_the_picture_is_a_png_of_a_readable_size(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    plot_edits(file, {"mira": Curves([0.9, 0.5, 0.1], [0.0, 0.1, 0.0], (0.8, 0.2))}, window=2, holdout="ines")
    data = file.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(data[16:20], "big") >= 800  # its width
