"""The study of the language world in small: its users' wishes are learnt from their edits, by the learner itself."""

import csv
import io
import json
import statistics
from pathlib import Path

import pytest
from rich.console import Console

from corlld.errors import FatalError
from corlld.simulation.studies.contract import Options
from corlld.simulation.studies.language_world.study import STUDY
from corlld.simulation.studies.runner import run_study

SEEDS = (1, 2, 3)
OPTIONS = Options(seeds=SEEDS, quick=True, model="demo", edits=None)


def test_edits_teach_what_a_user_wishes_and_every_other_way_does_too(tmp_path: Path) -> None:
    quiet = Console(file=io.StringIO())
    run_study(STUDY, OPTIONS, tmp_path, "corlld simulate language-world --quick", quiet, quiet)

    with (tmp_path / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "reported"]

    def reached(method: str) -> float:
        own = [row for row in rows if row["method"] == method]
        assert [int(row["seed"]) for row in own] == list(SEEDS)
        return statistics.fmean(float(row["end_utility"]) for row in own)

    untaught = reached("no learning")
    for method in ("CoRLL", "tails alone", "SFT on edits"):
        # After 96 answers. With the loss turned round CoRLL fell to -0.05, with the texts exchanged to 0.10.
        assert reached(method) > untaught + 0.04, method
    assert all(float(row["best_within_kl"]) >= float(row["end_utility"]) - 0.05 for row in rows)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["figures"]["regret_honest_corll"]["value"] < summary["figures"]["regret_honest_no_learning"]["value"]
    assert (tmp_path / "regret.png").stat().st_size > 10_000
    assert (tmp_path / "differences.png").stat().st_size > 10_000


def test_seeds_that_settings_are_chosen_on_are_never_reported() -> None:
    with pytest.raises(FatalError, match="101"):
        STUDY.units(Options(seeds=(1, 101), quick=False, model="demo", edits=None))
