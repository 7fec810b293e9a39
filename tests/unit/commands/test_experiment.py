"""`corlld experiment` without arms or without a store, and who it says is not compared."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from corlld.cli import main
from corlld.durable import DraftFigures, Participation, Statistics, StoreIdentity, UserState
from corlld.experiment.arms import Arms
from corlld.settings.sections import Settings
from corlld.state.store import LocalFolderStore
from tests.support.commands import clear_settings
from tests.support.states import adapter

PAGE = Path(__file__).parents[3] / "deploy" / "README.md"

ARMS = [{"name": "off", "share": 0.2, "holdout": True}]
SETTINGS = Settings.model_validate({"experiment": {"arms": ARMS, "drafts": 4}})
BY_NAME = Arms(SETTINGS.experiment, SETTINGS.learning, SETTINGS.guard).by_name


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a store, which is not there yet, in the settings of the environment. With arms."""
    clear_settings(monkeypatch)
    monkeypatch.setenv("CORLLD_STATE__PATH", str(tmp_path / "state"))
    monkeypatch.setenv("CORLLD_EXPERIMENT__ARMS", json.dumps(ARMS))
    monkeypatch.setenv("CORLLD_EXPERIMENT__DRAFTS", "4")
    return tmp_path / "state"


@pytest.fixture
def store(folder: Path) -> LocalFolderStore:
    opened = LocalFolderStore(folder)
    opened.open(StoreIdentity("f", "c", "g", "m", "r", "a"), must_exist=False)
    return opened


def uid(number: int) -> str:
    return f"{number:032x}"


def save(store: LocalFolderStore, number: int, arm: str | None, terms: str = "", ratio_sum: float = 1.0) -> None:
    """Store a user with a complete outcome."""
    part = None if arm is None else Participation(arm, terms, DraftFigures(4, 1, ratio_sum, 0.4), completed_at=1.0)
    statistics = Statistics(events=12, first_drafts=DraftFigures(8, 1, 4.0, 0.8))
    store.save(uid(number), UserState(uid(number), statistics=statistics, participation=part), "0")


def test_the_help_says_what_forgotten_means(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["experiment", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "`forgotten` says how much less likely an arm's adapters make plain text than the base model does" in words


def test_without_arms_it_says_what_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CORLLD_EXPERIMENT__ARMS")
    assert main(["experiment"]) == 78
    said = capsys.readouterr().err
    assert "experiment.arms: not set, needed: a table [[experiment.arms]] per arm: see Does it help? in deploy" in said
    assert "## Does it help?\n" in PAGE.read_text("utf-8")
    assert not folder.exists()


@pytest.mark.usefixtures("folder")
def test_without_a_store_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment"]) == 65
    assert "none yet in" in capsys.readouterr().err


def test_users_who_are_not_compared_are_counted_in_sentences(
    store: LocalFolderStore, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(store, 1, "off", BY_NAME["off"].digest, 2.0)
    save(store, 2, "default", BY_NAME["default"].digest, 1.0)
    save(store, 3, "default", "another rule")
    save(store, 4, "gone", "x")
    save(store, 5, None)
    store.save(uid(6), replace(UserState(uid(6)), erased=True), "0")
    save(store, 7, "off", BY_NAME["off"].digest)
    (file,) = (folder / "users" / uid(7)).iterdir()
    file.write_bytes(file.read_bytes()[:100])

    assert main(["experiment"]) == 0
    shown = capsys.readouterr()
    assert "7 of 7 users" in shown.err
    for sentence in (
        "arm default: no difference to no learning is shown yet (",
        "1 user of arm default is left out: joined under another rule",
        "1 user is in arm gone, which is not in the settings: taught by [learning]",
        "1 user is in no arm: there before the experiment",
        "1 state can't be read",
    ):
        assert sentence in shown.out

    assert main(["experiment", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(arm["name"], arm["users"], arm["left_out"], arm["outcomes"]) for arm in report["arms"]] == [
        ("off", 1, 0, 1),
        ("default", 2, 1, 1),
    ]
    assert [arm["edit_ratio"]["mean"] for arm in report["arms"]] == [0.5, 0.25]
    assert [arm["saved_against_first_drafts"] for arm in report["arms"]] == [0.0, 0.25]
    assert report["comparisons"][0]["saved"]["mean"] == 0.25
    assert (report["retired_arms"], report["users_in_no_arm"], report["unreadable"]) == ({"gone": 1}, 1, 1)


def test_who_began_from_another_start_adapter_than_the_daemon_has_now_is_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now, before = "a" * 64, "b" * 64
    store = LocalFolderStore(folder)
    store.open(StoreIdentity("f", "c", "g", "m", "r", "a", start_adapter=now), must_exist=False)
    for number, start in enumerate((now, before, None)):
        part = Participation("default", BY_NAME["default"].digest, DraftFigures(4, 1, 1.0, 0.4), completed_at=1.0)
        statistics = Statistics(events=12, first_drafts=DraftFigures(8, 1, 4.0, 0.8))
        began = UserState(
            uid(number), adapter=replace(adapter(), start=start), statistics=statistics, participation=part
        )
        store.save(uid(number), began, "0")
    assert main(["experiment"]) == 0
    assert "2 users of arm default are left out: began from another start adapter" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["0", "1", "-0.1", "much", "nan"])
def test_a_difference_that_is_no_share_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["experiment", "--difference", text])
    assert ended.value.code == 2
    assert "--difference" in capsys.readouterr().err
