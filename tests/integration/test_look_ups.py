"""Users and stores looked up by `corlld uid` and `corlld state show`."""

from pathlib import Path

import pytest

from corlld.cli import main
from corlld.events.pseudonyms import Pseudonyms
from tests.support.commands import SECRET, fails


def test_uid_is_the_hmac_of_the_user_id(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["uid", "ann"]) == 0
    assert capsys.readouterr().out.strip() == Pseudonyms(SECRET).uid("ann")


def test_nobody_is_looked_up_under_another_secret(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run"]) == 0
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", "another secret, which is long enough too")
    code, problem = fails(capsys, "state", "show", "ann")
    assert code == 78
    assert "another identity.secret" in problem


def test_a_store_that_no_run_has_made_is_told_alike_by_check_and_state_show(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = f"none yet in {site / 'state'}; `corlld run` makes it"
    assert main(["check"]) == 0
    assert f" {said}\n" in capsys.readouterr().out
    for whom in ([], ["ann"], ["--json"]):
        assert fails(capsys, "state", "show", *whom) == (65, f"corlld: state store: {said}")
