"""The study `weak-edits` on a tiny model: too little for drafts to change, not for likelihoods."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from corlld.errors import FatalError
from corlld.simulation.personas import LENA, OMAR
from corlld.simulation.studies.contract import Options, Row
from corlld.simulation.studies.runner import run_study
from corlld.simulation.studies.weak_edits.contestants import (
    CHANGED,
    FINE_TUNING,
    NOTHING,
    PAIR_DPO,
    Rule,
    seen,
)
from corlld.simulation.studies.weak_edits.feedback import Condition, Feedback
from corlld.simulation.studies.weak_edits.loop import Loop
from corlld.simulation.studies.weak_edits.report import Report
from corlld.simulation.studies.weak_edits.study import QUICK, STUDY, VALIDATION_SEED, WeakEdits
from corlld.simulation.studies.workshop import Workshop

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

# The tiny model takes larger steps.
RATES = (5e-3, 1e-2, 2e-2)
SHIPPED_RATE = 2e-3
RULES = tuple(rule.at(SHIPPED_RATE) for rule in (CHANGED, FINE_TUNING))


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weak-edits")
    console = Console(quiet=True)
    options = Options((1,), quick=True, model=str(tiny_model), edits=None)
    run_study(WeakEdits(rules=RULES, rates=RATES, shipped=RULES), options, folder, "typed", console, console)
    return folder


@pytest.fixture(scope="module")
def figures(folder: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((folder / "summary.json").read_text())["figures"]
    return figures


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_what_writers_want_becomes_likelier_for_held_out_prompts_too(
    rows: list[dict[str, str]], figures: dict[str, Any]
) -> None:
    for rule in RULES:
        cell = [row for row in rows if row["unit"] == f"new/alpha 0.5/{rule.name}/1" and row["kind"] == "held-out"]
        rises = {(row["writer"], row["drafts"]): float(row["wanted_rise_nats"]) for row in cell}
        for taste in QUICK.tastes:
            assert rises[taste.user_id, "0"] == 0
            assert rises[taste.user_id, str(QUICK.drafts)] > 0.05
    assert figures["new_alpha_0.5_changed_wanted_rise"]["value"] > 0.1
    assert figures["new_alpha_0.5_no_learning_wanted_rise"]["value"] == 0


def test_the_rule_is_compared_with_fine_tuning_everywhere_and_with_choices_where_they_are_honest(
    figures: dict[str, Any],
) -> None:
    honest = [("changed", "pair_dpo"), ("fine_tuning", "no_learning")]
    for condition, others in (("alpha_0.5", honest), ("alpha_0.2", honest), ("alpha_0.5_noise_0.2_scaled", [])):
        for ours, theirs in (("changed", "fine_tuning"), *others):
            for what in ("held_out", "effort"):
                assert {"value", "low", "high"} <= figures[f"new_{condition}_{ours}_minus_{theirs}_{what}"].keys()
    assert "new_alpha_0.5_noise_0.2_scaled_changed_minus_pair_dpo_held_out" not in figures, "those choices had no noise"
    assert sum(name.startswith("tuning_") for name in figures) == 3 * 3, "budgets are equal"


def test_nothing_is_reported_of_writers_and_seeds_that_were_tuned_on(rows: list[dict[str, str]]) -> None:
    users = {
        part: {(row["writer"], row["seed"]) for row in rows if row["part"] == part}
        for part in ("new", "shipped", "tuning")
    }
    assert users["new"] == {(taste.user_id, seed) for taste in QUICK.tastes for seed in "1"}
    assert {seed for _, seed in users["tuning"]} == {str(VALIDATION_SEED)}
    assert not {writer for writer, _ in users["tuning"]} & {writer for writer, _ in users["new"]}
    assert users["shipped"] <= users["new"]


def test_each_rule_runs_with_the_learning_rate_that_was_best_for_it_and_at_one_rate(
    rows: list[dict[str, str]], figures: dict[str, Any]
) -> None:
    rates = {(row["part"], row["rule"]): row["lr"] for row in rows if row["rule"] != NOTHING.name}
    by_rate: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["part"] == "tuning" and int(row["drafts"]) > QUICK.tuning // 2:
            by_rate.setdefault(row["rule"], {}).setdefault(row["lr"], []).append(float(row["distance"]))
    assert by_rate.keys() == {rule.name for rule in (*RULES, PAIR_DPO)}
    for rule, tried in by_rate.items():
        assert len(tried) == len(RATES)
        # The first of equal rates is taken.
        assert rates["new", rule] == min(tried, key=lambda lr: sum(tried[lr]))
    assert {rates["shipped", rule.name] for rule in RULES} == {str(SHIPPED_RATE)}
    assert "shipped_alpha_0.5_changed_minus_fine_tuning_effort" in figures


def test_a_cell_is_run_once_for_conditions_that_are_the_same_to_its_rule(rows: list[dict[str, str]]) -> None:
    def cells(rule: Rule) -> set[str]:
        return {row["condition"] for row in rows if row["rule"] == rule.name and row["part"] == "new"}

    assert cells(NOTHING) == {"nothing"}
    assert cells(PAIR_DPO) == {"choices"}
    assert len(cells(CHANGED)) == 3
    assert seen(Condition(0.2), PAIR_DPO) == seen(Condition(1.0, anywhere=True), PAIR_DPO)
    units = [row["unit"] for row in rows if row["kind"] == "round"]
    assert len(units) == len({(row["unit"], row["writer"], row["drafts"]) for row in rows if row["kind"] == "round"})


def test_pictures_are_there_and_what_was_needed_on_the_way_is_not(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "differences.png",
        "learning.png",
        "results.csv",
        "summary.json",
    ]
    for picture in folder.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_sitting_gives_a_report_of_what_was_done(tiny_model: Path, tmp_path: Path) -> None:
    console, study = Console(quiet=True), WeakEdits(rules=RULES, rates=RATES, shipped=RULES)
    options = Options((1,), quick=True, model=str(tiny_model), edits=None)
    units = study.units(replace(options, scratch=tmp_path / "scratch"))
    begun = [unit for unit in units if unit.key.startswith("tuning/changed/") or unit.key == "new/alpha 0.5/changed/1"]
    done: list[Row] = [{"unit": unit.key, **row} for unit in begun for row in unit.run()]
    figures = study.report(done, tmp_path, options)
    assert "new_alpha_0.5_changed_held_out" in figures
    assert not any("_minus_" in name for name in figures), "there is nothing to compare with"
    assert (tmp_path / "learning.png").exists()
    assert not (tmp_path / "differences.png").exists()
    with pytest.raises(FatalError, match="no unit was done"):
        run_study(study, options, tmp_path / "other", "typed", console, console, minutes=0)


def test_a_rule_that_learns_nothing_leaves_the_drafts_as_they_were(tiny_model: Path) -> None:
    loop = Loop(Workshop(str(tiny_model)), NOTHING, Feedback(Condition(0.5), 1), (LENA, OMAR), 1)
    before = loop.mark(2)
    loop.round()
    after = loop.mark(2)
    assert [{**row, "drafts": 0} for row in after] == before


def test_of_two_samples_the_better_one_is_learnt_and_the_same_seed_gives_the_same_rows(tiny_model: Path) -> None:
    def rounds(rule: Rule) -> Sequence[Row]:
        loop = Loop(Workshop(str(tiny_model)), rule, Feedback(Condition(0.5), 1), (LENA,), 1)
        return [*loop.round(), *loop.round()]

    compared = rounds(PAIR_DPO)
    assert compared == rounds(PAIR_DPO)
    assert float(compared[1]["rise_nats"]) != 0
    assert "edit_ratio" not in compared[0], "a choice changes no word"
    one = Loop(Workshop(str(tiny_model)), PAIR_DPO, Feedback(Condition(0.5), 1), (LENA,), 2)
    assert one.round() != compared[:1]


def test_figures_are_those_of_the_rows() -> None:
    """Two writers, two rounds of four drafts: effort, distance at the end, and when drafts are good, by hand."""

    def cell(rule: Rule, ends: tuple[float, float]) -> list[Row]:
        label: Row = {"part": "new", "condition": "alpha 0.5", "rule": rule.name, "seed": 1}
        rows: list[Row] = []
        for writer, end in zip("ab", ends, strict=True):
            for drafts, distance in ((4, 0.5), (8, end)):
                figures: Row = {"distance": distance, "repetition": 0.1, "edit_ratio": distance / 2}
                rows.append({**label, "kind": "round", "writer": writer, "drafts": drafts, **figures})
            mark: Row = {"distance": end, "wanted_rise_nats": 1.0}
            rows.append({**label, "kind": "held-out", "writer": writer, "drafts": 8, **mark})
        return rows

    figures = Report(cell(CHANGED, (0.0, 0.2)) + cell(FINE_TUNING, (0.3, 0.3)), RULES).figures()
    assert figures["new_alpha_0.5_changed_effort"].value == pytest.approx((4 * 0.5 + (4 * 0.5 + 4 * 0.2)) / 2)
    assert figures["new_alpha_0.5_changed_held_out"].value == pytest.approx(0.1)
    # The running mean of eight drafts is .25 for the first writer at the end, .35 for the second one.
    assert figures["new_alpha_0.5_changed_good"].value == 0.5
    assert figures["new_alpha_0.5_changed_minus_fine_tuning_held_out"].value == pytest.approx(0.1 - 0.3)
    assert figures["new_alpha_0.5_changed_edit_ratio"].value == pytest.approx((0.125 + 0.175) / 2)


def test_the_figure_of_a_tuning_is_what_decides() -> None:
    label: Row = {"part": "tuning", "condition": "alpha 0.5", "rule": CHANGED.name, "seed": VALIDATION_SEED, "lr": 1e-3}
    rounds: list[Row] = [
        {**label, "kind": "round", "writer": "a", "drafts": 4 * number, "distance": 0.7 - number / 10}
        for number in range(1, 7)
    ]
    assert Report(rounds, RULES).figures()["tuning_changed_0.001"].value == pytest.approx((0.3 + 0.2 + 0.1) / 3)


def test_the_seed_of_the_tuning_is_never_reported(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match=str(VALIDATION_SEED)):
        STUDY.units(Options((1, VALIDATION_SEED), quick=True, model="demo", edits=None, scratch=tmp_path))
