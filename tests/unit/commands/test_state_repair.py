"""`corlld state repair` where it can't mend: a file of events is not read again."""

from pathlib import Path

import pytest

from corlld.cli import main
from corlld.durable import StoreIdentity
from corlld.errors import ExitCode
from corlld.state.store import LocalFolderStore
from tests.support.commands import SECRET, clear_settings
from tests.support.states import UID, released_state


@pytest.mark.parametrize("yes", [[], ["--yes"]])
def test_a_repair_of_a_state_whose_input_is_a_file_says_what_to_do_and_changes_nothing(
    yes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clear_settings(monkeypatch)
    settings = {"SOURCE__KIND": "jsonl", "SOURCE__PATH": tmp_path / "edits.jsonl", "STATE__PATH": tmp_path / "state"}
    for name, value in {**settings, "IDENTITY__SECRET": SECRET}.items():
        monkeypatch.setenv(f"CORLLD_{name}", str(value))
    (tmp_path / "edits.jsonl").touch()
    store = LocalFolderStore(tmp_path / "state")
    store.open(StoreIdentity("f", "jsonl", "jsonl", "m", "r", "a"), must_exist=False)
    token = store.save(UID, released_state(3, applied={"jsonl/0": 30}), "0")
    store.save(UID, released_state(4, applied={"jsonl/0": 40}), token)
    before, torn = sorted((tmp_path / "state" / "users" / UID).iterdir())
    torn.write_bytes(torn.read_bytes()[:100])

    assert main(["state", "repair", *yes]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "no state was repaired" in said
    assert "the generation before in place of a state" in said
    assert "from its `applied` byte on" in said
    assert len(torn.read_bytes()) == 100

    torn.unlink()  # as the sentence says
    assert main(["state", "show", "--uid", UID]) == ExitCode.OK
    assert "jsonl/0: 30" in capsys.readouterr().out
    assert before.exists()
