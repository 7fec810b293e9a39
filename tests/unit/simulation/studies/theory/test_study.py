"""The study of the theory reports figures and pictures."""

import json
from pathlib import Path

from rich.console import Console

from corlld.simulation.studies.contract import Options
from corlld.simulation.studies.runner import run_study
from corlld.simulation.studies.theory.study import STUDY


def test_the_study_reports_figures_and_two_pictures(tmp_path: Path) -> None:
    quiet = Console(file=None, quiet=True)
    options = Options(seeds=(4, 5), quick=True, model="demo", edits=None)
    run_study(STUDY, options, tmp_path, "corlld simulate theory --quick", quiet, quiet)
    figures = json.loads((tmp_path / "summary.json").read_text())["figures"]
    assert figures["corll_bound_used_honest"]["value"] < 1
    assert figures["perceptron_bound_used_noisy"]["value"] < 1
    assert {path.name for path in tmp_path.glob("*.png")} == {"regret.png", "plateaus.png"}
    for picture in tmp_path.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
