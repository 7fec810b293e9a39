"""The frame of the studies: a run that is cut off goes on, and intervals hold what they say."""

import csv
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from corlld.cli import main
from corlld.errors import ExitCode, FatalError
from corlld.simulation.studies.contract import Figure, Options, Row, Study, Unit
from corlld.simulation.studies.intervals import blocked_mean_figure, mean_figure, paired_difference
from corlld.simulation.studies.runner import run_study

OPTIONS = Options(seeds=(1, 2, 3), quick=False, model="demo", edits=None)
UNITS_FILE = "units.jsonl"


class Cut(Exception):
    """As a signal would."""


class Squares:
    """A unit a seed; each notes that it was run."""

    question = "What is the square?"
    budget_minutes = 1.0
    seeds = (1, 2, 3)

    def __init__(self, name: str = "squares", cut_at: int | None = None) -> None:
        self.name = name
        self.cut_at = cut_at
        self.ran: list[int] = []

    def units(self, options: Options) -> Sequence[Unit]:
        return [Unit(f"seed {seed}", self._unit(seed)) for seed in options.seeds]

    def _unit(self, seed: int) -> Callable[[], Sequence[Row]]:
        def run() -> Sequence[Row]:
            if seed == self.cut_at:
                raise Cut
            self.ran.append(seed)
            return [{"seed": seed, "square": seed**2, "third": seed / 3}]

        return run

    def report(self, rows: Sequence[Row], folder: Path, options: Options) -> Mapping[str, Figure]:
        return {"mean_square": mean_figure([float(row["square"]) for row in rows], "of the seeds")}


def do(study: Study, folder: Path, options: Options = OPTIONS, console: Console | None = None) -> None:
    quiet = Console(file=io.StringIO())
    run_study(study, options, folder, "corlld simulate squares", console or quiet, quiet)


def cut_run(folder: Path) -> None:
    with pytest.raises(Cut):
        do(Squares(cut_at=3), folder)


def test_a_run_that_was_cut_off_goes_on_and_ends_as_an_uncut_one(tmp_path: Path) -> None:
    cut_run(tmp_path / "cut")
    study = Squares()
    do(study, tmp_path / "cut")
    assert study.ran == [3]
    do(Squares(), tmp_path / "whole")
    cut, whole = ((tmp_path / name / "results.csv").read_bytes() for name in ("cut", "whole"))
    assert cut == whole
    figures = [json.loads((tmp_path / name / "summary.json").read_text())["figures"] for name in ("cut", "whole")]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("kept", [0, 1, -5])
def test_a_unit_whose_line_is_torn_is_done_again(kept: int, tmp_path: Path) -> None:
    cut_run(tmp_path)
    lines = (tmp_path / UNITS_FILE).read_bytes().splitlines(keepends=True)
    (tmp_path / UNITS_FILE).write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
    with pytest.raises(Cut):  # and what it adds stands in a line of its own
        do(Squares(cut_at=3), tmp_path)
    assert (tmp_path / UNITS_FILE).read_bytes().count(b"\n") == len(lines)
    study = Squares()
    do(study, tmp_path)
    assert study.ran == [3]


@pytest.mark.parametrize(
    ("name", "content"),
    [(UNITS_FILE, '{"options": \n'), ("summary.json", "{"), ("summary.json", '{"study": 1}')],
)
def test_a_damaged_file_of_an_earlier_run_is_named(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(FatalError) as no:
        do(Squares(), tmp_path)
    assert str(no.value).startswith(f"{tmp_path / name} is damaged, or of another version; remove it")
    assert no.value.exit_code == ExitCode.DATA


def test_a_run_whose_first_line_is_torn_begins_anew(tmp_path: Path) -> None:
    (tmp_path / UNITS_FILE).write_text('{"study": "squ')
    study = Squares()
    do(study, tmp_path)
    assert study.ran == [1, 2, 3]


@pytest.mark.parametrize(
    ("study", "options"),
    [
        (Squares(), replace(OPTIONS, seeds=(1, 2))),
        (Squares(), replace(OPTIONS, quick=True)),
        (Squares(), replace(OPTIONS, model="another")),
        (Squares(), replace(OPTIONS, edits=Path("edits.jsonl"))),
        (Squares("cubes"), OPTIONS),
    ],
)
def test_a_half_done_run_of_something_else_is_refused_and_left_alone(
    study: Squares, options: Options, tmp_path: Path
) -> None:
    cut_run(tmp_path)
    before = (tmp_path / UNITS_FILE).read_bytes()
    with pytest.raises(FatalError, match=r"half-done run of another study, or with other options.*units\.jsonl") as no:
        do(study, tmp_path, options)
    assert no.value.exit_code == ExitCode.USAGE
    assert study.ran == []
    assert (tmp_path / UNITS_FILE).read_bytes() == before


def test_a_run_of_which_no_unit_was_done_binds_nobody_to_its_options(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        do(Squares(cut_at=1), tmp_path, replace(OPTIONS, model="mistyped"))
    do(Squares(), tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["seeds"] == [1, 2, 3]


def test_a_finished_run_is_done_again_and_replaced(tmp_path: Path) -> None:
    do(Squares(), tmp_path)
    assert not (tmp_path / UNITS_FILE).exists()
    study = Squares()
    do(study, tmp_path)
    assert study.ran == [1, 2, 3]
    do(Squares(), tmp_path / "quick", replace(OPTIONS, quick=True))
    do(Squares(), tmp_path / "quick", replace(OPTIONS, seeds=(5,)))
    assert [row["seed"] for row in read(tmp_path / "quick/results.csv")] == ["5"]


def test_a_finished_run_stays_until_the_next_one_is_finished(tmp_path: Path) -> None:
    do(Squares(), tmp_path)
    before = (tmp_path / "summary.json").read_bytes()
    cut_run(tmp_path)
    assert (tmp_path / "summary.json").read_bytes() == before


@pytest.mark.parametrize(
    ("study", "options"),
    [
        (Squares("cubes"), OPTIONS),
        (Squares(), replace(OPTIONS, quick=True)),
        (Squares(), replace(OPTIONS, seeds=(1,))),
    ],
)
def test_a_finished_run_is_not_replaced_by_another_study_a_quick_run_or_other_seeds(
    study: Squares, options: Options, tmp_path: Path
) -> None:
    do(Squares(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FatalError, match="has a run of the study squares, seeds 1, 2, 3; name another --folder") as no:
        do(study, tmp_path, options)
    assert no.value.exit_code == ExitCode.USAGE
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_results_that_no_run_has_made_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("mine\n")
    study = Squares()
    for _ in range(2):
        with pytest.raises(FatalError, match=r"has a results\.csv that is of no study; name another --folder") as no:
            do(study, tmp_path)
        assert no.value.exit_code == ExitCode.USAGE
    assert study.ran == []
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine\n"]


def test_the_time_of_earlier_runs_counts(tmp_path: Path) -> None:
    cut_run(tmp_path)
    *lines, newest = (tmp_path / UNITS_FILE).read_text().splitlines()
    aged = json.dumps(json.loads(newest) | {"spent": [300.0, 120.0]})
    (tmp_path / UNITS_FILE).write_text("\n".join([*lines, aged, ""]))
    with pytest.raises(Cut):
        do(Squares(cut_at=3), tmp_path)
    do(Squares(), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["minutes"], summary["cpu_minutes"]) == (5.0, 2.0)


def test_the_results_have_a_row_a_row_and_the_summary_says_how_they_were_made(tmp_path: Path) -> None:
    out = io.StringIO()
    do(Squares(), tmp_path, console=Console(file=out, width=120))
    assert read(tmp_path / "results.csv")[1] == {"unit": "seed 2", "seed": "2", "square": "4", "third": "0.666667"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["command"] == "corlld simulate squares"
    assert summary["seeds"] == [1, 2, 3]
    assert summary["minutes"] == summary["cpu_minutes"] == 0.0
    assert {"corlld", "python", "torch", "numpy"} <= set(summary["versions"])
    assert summary["figures"]["mean_square"]["value"] == pytest.approx(14 / 3, rel=1e-5)
    assert "mean_square" in out.getvalue()
    assert "4.67" in out.getvalue()


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, said, code in (
        (tmp_path / "file", "is not a folder", ExitCode.USAGE),
        (tmp_path / "file" / "below", "can't be used", ExitCode.CANNOT_WRITE),
    ):
        with pytest.raises(FatalError, match=said) as no:
            do(Squares(), folder)
        assert no.value.exit_code == code


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- intervals --------------------------------------------------------------------------------------------------------


def test_students_interval_of_two_values_is_that_of_the_cauchy_distribution() -> None:
    # Mean 2, standard error sqrt(2) / sqrt(2) = 1; with one degree of freedom the quantile is tan(0.475 pi).
    found = mean_figure([1.0, 3.0], "")
    quantile = np.tan(0.475 * np.pi)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2 - quantile, 2 + quantile), rel=1e-4)


def test_with_two_degrees_of_freedom_the_quantile_has_a_closed_form() -> None:
    # Its distribution is 1/2 + t / (2 sqrt(2 + t^2)) = 0.975; standard deviation 3, of three values.
    quantile = 0.95 * np.sqrt(2 / (1 - 0.95**2))
    found = mean_figure([0.0, 3.0, 6.0], "")
    assert found.high == pytest.approx(3 + quantile * 3 / np.sqrt(3), rel=1e-5)


def test_a_single_value_has_no_interval_and_none_is_refused() -> None:
    assert mean_figure([0.5], "half") == Figure(0.5, "half")
    with pytest.raises(ValueError, match="no values"):
        mean_figure([], "")


def test_a_paired_difference_is_judged_by_the_differences_alone() -> None:
    seeds = np.array([1.0, 50.0, -20.0, 300.0])
    found = paired_difference((seeds + np.array([1.0, 1.1, 0.9, 1.0])).tolist(), seeds.tolist(), "")
    assert found.low is not None
    assert found.high is not None
    assert 0.8 < found.low < found.value < found.high < 1.2
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([1.0, 2.0], [1.0], "")


@pytest.mark.parametrize("count", [3, 5, 20])
def test_students_interval_holds_the_true_mean_95_times_of_100(count: int) -> None:
    draws = np.random.default_rng(7).normal(3.0, 2.0, size=(600, count))
    assert coverage([mean_figure(draw.tolist(), "") for draw in draws], 3.0) == pytest.approx(0.95, abs=0.03)


def test_blocks_are_drawn_again_as_a_whole() -> None:
    # Of the blocks (0) and (1, 1) two are drawn: with chance 1/4 twice the first, mean 0; with 1/4 twice the second, 1.
    found = blocked_mean_figure([[0.0], [1.0, 1.0]], "")
    assert (found.value, found.low, found.high) == (pytest.approx(2 / 3), 0.0, 1.0)
    with pytest.raises(ValueError, match="no values"):
        blocked_mean_figure([[], []], "")


def test_the_interval_of_blocks_holds_the_true_mean_where_values_of_a_block_are_alike() -> None:
    random = np.random.default_rng(11)
    blocked, alone = [], []
    for _ in range(60):
        blocks = random.normal(0, 1, size=(50, 1)) + random.normal(0, 0.3, size=(50, 3))
        blocked.append(blocked_mean_figure(blocks.tolist(), ""))
        alone.append(blocked_mean_figure([[value] for value in blocks.ravel().tolist()], ""))
    assert coverage(blocked, 0.0) >= 0.9
    assert coverage(alone, 0.0) <= 0.85  # as if there were three times as many values


def coverage(figures: Sequence[Figure], truth: float) -> float:
    return float(np.mean([f.low <= truth <= f.high for f in figures if f.low is not None and f.high is not None]))


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["cooking"], ["theory", "--seeds", "1,x"], ["theory", "--seeds", "0"], ["theory", "--seeds", "1,1"], []],
)
def test_a_study_or_a_seed_that_is_none_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *arguments])
    assert ended.value.code == ExitCode.USAGE
    assert capsys.readouterr().err


@pytest.mark.parametrize(("study", "option"), [("theory", "--edits"), ("no-harm", "--edits"), ("theory", "--model")])
def test_an_option_that_the_study_has_no_use_for_is_refused(
    study: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    assert main(["simulate", study, "--folder", str(folder), "--seeds", "1", option, "demo"]) == ExitCode.USAGE
    assert capsys.readouterr().err == f"corlld: {option}: the study {study} does not use it\n"
    assert not folder.exists()


@pytest.mark.parametrize(("study", "seed"), [("tastes", "1001"), ("language-world", "101")])
def test_a_seed_that_settings_are_chosen_on_is_a_wrong_command_line(study: str, seed: str, tmp_path: Path) -> None:
    assert main(["simulate", study, "--seeds", seed, "--folder", str(tmp_path / "results")]) == ExitCode.USAGE


def test_a_missing_package_for_pictures_is_told_before_the_work_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    folder = tmp_path / "results"
    assert main(["simulate", "theory", "--quick", "--folder", str(folder)]) == ExitCode.CONFIGURATION
    assert capsys.readouterr().err == "corlld: the studies need matplotlib: pip install 'corlld[demo]'\n"
    assert not folder.exists()


def test_the_command_runs_a_study_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "theory", "--quick", "--seeds", "4,5", "--folder", str(tmp_path)]) == ExitCode.OK
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["study"], summary["seeds"], summary["quick"]) == ("theory", [4, 5], True)
    assert set(summary["figures"]) <= set(capsys.readouterr().out.split())
