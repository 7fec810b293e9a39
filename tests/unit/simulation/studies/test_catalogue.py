"""`corlld simulate` finds a study by its name, and refuses what the study can't use."""

import json
import sys
from pathlib import Path

import pytest

from corlld.cli import main
from corlld.errors import ExitCode


@pytest.mark.parametrize(
    "arguments",
    [
        ["cooking"],
        ["theory", "--seeds", "1,x"],
        ["theory", "--seeds", "0"],
        ["theory", "--seeds", "1,1"],
        ["weak-edits", "--minutes", "0"],
        [],
    ],
)
def test_a_study_or_a_seed_that_is_none_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *arguments])
    assert ended.value.code == ExitCode.USAGE
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("study", "option"),
    [("theory", "--edits"), ("no-harm", "--edits"), ("theory", "--model"), ("tastes", "--minutes")],
)
def test_an_option_that_the_study_has_no_use_for_is_refused(
    study: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    assert main(["simulate", study, "--folder", str(folder), "--seeds", "1", option, "5"]) == ExitCode.USAGE
    assert capsys.readouterr().err == f"corlld: {option}: the study {study} does not use it\n"
    assert not folder.exists()


@pytest.mark.parametrize(("study", "seed"), [("weak-edits", "1001"), ("language-world", "101")])
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
