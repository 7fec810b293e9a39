"""A missing right on what corlld keeps has one exit code, whatever the file or folder, and whatever the command."""

import errno
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from corlld.cli import main
from corlld.errors import ExitCode
from tests.support.bad_disk import refuse
from tests.support.commands import fails


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("check", "store.json"),
        ("check", "positions/*.json"),
        ("check", "users"),
        ("run", "store.json"),
        ("run", "positions/*.json"),
        ("state show", "store.json"),
        ("state show", "users"),
        ("state export copy", "store.json"),
        ("state export copy", "users"),
        ("experiment", "users"),
    ],
)
def test_what_may_not_be_read_in_the_store_gives_one_exit_code(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, what: str
) -> None:
    monkeypatch.chdir(site)
    monkeypatch.setenv(
        "CORLLD_EXPERIMENT__ARMS", json.dumps([{"name": "slow", "share": 0.1, "learning": {"lr": 1e-4}}])
    )
    assert main(["run"]) == 0
    capsys.readouterr()
    refuse(monkeypatch, list((site / "state").glob(what)), ["read_bytes", "iterdir"], errno.EACCES)
    assert main(command.split()) == ExitCode.CANNOT_WRITE
    printed = capsys.readouterr()
    assert "Permission denied" in printed.out + printed.err


def test_dead_letters_that_may_not_be_read_give_it_too(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / "state").mkdir()
    letters = site / "state" / "dead-letters.jsonl"
    letters.write_text("")
    refuse(monkeypatch, [letters], ["open"], errno.EACCES)
    code, problem = fails(capsys, "dead-letters", "list")
    assert code == ExitCode.CANNOT_WRITE
    assert f"{letters} can't be read: Permission denied" in problem


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize("folder", ["users", "temporary", "positions", "outbox", "attempts"])
def test_a_folder_of_the_store_that_belongs_to_another_user_is_refused_at_the_start(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, folder: str
) -> None:
    """Else the daemon would wait for the right at the first write, for ever."""
    assert main(["run"]) == 0
    others, really_make = site / "state" / folder, tempfile.TemporaryFile

    def refuse_there(*arguments: Any, **keywords: Any) -> Any:
        if keywords.get("dir") == others:
            raise PermissionError(errno.EACCES, "Permission denied", str(others))
        return really_make(*arguments, **keywords)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse_there)
    capsys.readouterr()
    assert main([command]) == ExitCode.CANNOT_WRITE
    printed = capsys.readouterr()
    assert f"{others} can't be written: Permission denied" in printed.out + printed.err


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize("name", ["STATE__PATH", "PUBLISHING__PATH", "DEAD_LETTERS__PATH"])
def test_a_place_in_a_pseudo_filesystem_is_refused_also_of_root(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    monkeypatch.setenv(f"CORLLD_{name}", "/proc/corlld")
    assert main([command]) == ExitCode.CANNOT_WRITE
    printed = capsys.readouterr()
    assert "/proc can't be written: No such file or directory" in printed.out + printed.err
