"""The command line: what it refuses, and the sentence it refuses it with."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from corlld.cli import main
from corlld.errors import ExitCode


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        *((["demo", "--edits", text], "a whole number of at least 1") for text in ("0", "-3", "1.5", "many", "²")),
        *((["demo", "--alpha", text], "a number above 0 and at most 1") for text in ("0", "2", "nan", "half")),
        (["check", "--sample", "all"], "a whole number of at least 1"),
    ],
)
def test_a_number_that_does_not_fit_is_refused_with_what_is_allowed(
    arguments: list[str], allowed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == ExitCode.USAGE
    assert f"{arguments[1]}: must be {allowed}, not {arguments[2]!r}" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["uid"], ["state", "show"]])
@pytest.mark.parametrize("user", ["", "x" * 257, "\udcff"])
def test_a_user_that_no_event_can_have_gets_no_pseudonym(
    command: list[str], user: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", "a secret of the tests, which is long enough")
    assert main([*command, user]) == ExitCode.USAGE
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{user}\n"))
    assert main([*command, "-"]) == ExitCode.USAGE
    printed = capsys.readouterr()
    assert printed.err.count("corlld: USER: ") == 2
    assert printed.out == ""


def test_a_user_id_of_the_greatest_length_gets_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", "a secret of the tests, which is long enough")
    assert main(["uid", "x" * 256]) == ExitCode.OK
    assert len(capsys.readouterr().out.strip()) == 32


def test_what_is_no_folder_is_refused_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes").write_text("x")
    assert main(["demo", "--folder", str(tmp_path / "notes")]) == ExitCode.USAGE
    assert "notes is not a folder" in capsys.readouterr().err


def test_a_standard_input_that_is_closed_is_told() -> None:
    send = f"exec {sys.executable} -m corlld send --dry-run - <&-"
    done = subprocess.run(["sh", "-c", send], env=dict(os.environ), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (ExitCode.USAGE, "corlld: standard input is closed\n")


def test_the_help_knows_every_exit_code_and_fits_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert {int(line.split()[0]) for line in lines if line.strip()[:1].isdigit()} == set(ExitCode)
    assert max(map(len, lines)) <= 80
