"""A run that is cut off goes on, and results are never replaced by other ones."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from corlld.errors import ExitCode, FatalError
from corlld.simulation.studies.contract import Figure, Options, Row, Study, Unit
from corlld.simulation.studies.intervals import mean_figure
from corlld.simulation.studies.runner import run_study

OPTIONS = Options(seeds=(1, 2, 3), quick=False, model="demo", edits=None)


UNITS_FILE = "units.jsonl"


class Cut(Exception):
    """Cuts a run off, as a signal would."""


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


def test_a_sitting_that_ends_reports_on_what_was_done_and_says_what_is_missing(tmp_path: Path) -> None:
    cut_run(tmp_path)
    console, study = Console(file=io.StringIO(), width=200), Squares()
    run_study(study, OPTIONS, tmp_path, "typed", console, Console(quiet=True), minutes=0)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert study.ran == []
    assert (summary["units"], summary["missing_units"]) == (3, ["seed 3"])
    assert summary["figures"]["mean_square"]["value"] == (1 + 4) / 2
    assert "1 of 3 units are missing" in console.file.getvalue()  # type: ignore[attr-defined]
    do(study, tmp_path)
    assert study.ran == [3], "the next sitting goes on"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["missing_units"] == []
    assert not (tmp_path / UNITS_FILE).exists()


def test_a_sitting_without_a_unit_has_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match="no unit was done"):
        run_study(Squares(), OPTIONS, tmp_path, "typed", Console(quiet=True), Console(quiet=True), minutes=0)


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
        with pytest.raises(FatalError, match=r"has a results\.csv that no study wrote; name another --folder") as no:
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
