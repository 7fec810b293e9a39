"""The command line: its commands, what it refuses with which sentence, and what its help teaches."""

import io
import os
import pkgutil
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from corlld import commands
from corlld.cli import COMMANDS, main
from corlld.commands.exit_codes import MEANINGS, markdown_table
from corlld.errors import ExitCode
from tests.support.commands import SECRET

ACTIONS = [
    *(f"dead-letters {action}" for action in ("list", "show", "replay")),
    *(f"state {action}" for action in ("show", "verify", "repair", "export", "import")),
]


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
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", SECRET)
    assert main([*command, user]) == ExitCode.USAGE
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{user}\n"))
    assert main([*command, "-"]) == ExitCode.USAGE
    printed = capsys.readouterr()
    assert printed.err.count("corlld: USER: ") == 2
    assert printed.out == ""


def test_a_user_id_of_the_greatest_length_gets_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", SECRET)
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
    codes = [int(found[1]) for line in lines if (found := re.match(r"  (\d+) ", line))]
    assert codes == [*sorted(ExitCode), 128 + signal.SIGINT, 128 + signal.SIGTERM]
    assert max(map(len, lines)) <= 80


def test_the_help_and_the_guide_say_the_same_of_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    guide = (Path(__file__).parents[2] / "deploy" / "README.md").read_text()
    assert markdown_table() in guide, f"put this into deploy/README.md:\n{markdown_table()}"
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", guide, re.MULTILINE)
    assert [int(code) for code, _ in rows] == [code for code, *_ in MEANINGS]
    for code, meaning in rows:
        assert f" {code} {meaning.replace('[', '').replace('](#rights-on-kafka)', '')}" in printed


@pytest.mark.parametrize("command", [*(command.NAME for command in COMMANDS), *ACTIONS])
def test_the_help_of_a_command_teaches_by_examples_and_fits_a_terminal(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"examples:\n  corlld {command}" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_every_module_that_is_a_command_is_listed_under_its_name() -> None:
    modules = [import_module(f"corlld.commands.{module.name}") for module in pkgutil.iter_modules(commands.__path__)]
    found = [module for module in modules if hasattr(module, "NAME")]
    last_words = {module.NAME.rpartition("-")[2] for module in found}
    assert last_words == {module.__name__.rpartition(".")[2] for module in found}
    assert sorted(module.NAME for module in found) == sorted(command.NAME for command in COMMANDS)


@pytest.mark.parametrize("arguments", [["--help"], ["settings"], ["metrics"], ["check", "--help"]])
def test_a_command_that_needs_no_model_and_no_broker_imports_neither_torch_nor_kafka(arguments: list[str]) -> None:
    code = f"""
import sys
from corlld.cli import main
try:
    main({arguments})
except SystemExit:
    pass
print(sorted({{"torch", "transformers", "kafka"}} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_an_uncaught_error_of_any_command_has_the_exit_code_of_a_bug() -> None:
    code = (
        "import sys\nfrom corlld import cli\n"
        "def fall(*_): raise RuntimeError('a text of a user')\n"
        "cli.build_parser = fall\nsys.exit(cli.entry())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.INTERNAL
    assert '"uncaught"' in done.stderr
    assert "a text of a user" not in done.stderr
