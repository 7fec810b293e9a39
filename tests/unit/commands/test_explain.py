"""`corlld explain` prints a user's story from the store, and changes nothing there."""

import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from corlld.cli import main
from corlld.commands.explain import explain_user
from corlld.durable import Participation, StoreIdentity
from corlld.errors import ExitCode, FatalError
from corlld.events.pseudonyms import Pseudonyms
from corlld.experiment.arms import Arms
from corlld.settings.learning_rule import Arm
from corlld.settings.sections import ExperimentSettings, GuardSettings, LearningSettings
from corlld.state.store import LocalFolderStore
from tests.support.commands import SECRET
from tests.support.states import OTHER_UID, UID, adapter, released_state, tombstone

ARMS = Arms(ExperimentSettings(arms=(Arm(name="off", share=0.1, holdout=True),)), LearningSettings(), GuardSettings())
STORED_AT = 1_760_000_000.0  # 2025-10-09 08:53:20 UTC
IDENTITY = StoreIdentity(Pseudonyms(SECRET).fingerprint, "c", "g", "m", "r", "a")


@pytest.fixture
def store(tmp_path: Path) -> LocalFolderStore:
    opened = LocalFolderStore(tmp_path)
    opened.open(IDENTITY, must_exist=False)
    began = replace(released_state(3), adapter=replace(adapter(), start="0123456789abcdef"))
    opened.save(UID, began, "0")
    opened.save(OTHER_UID, tombstone(5, OTHER_UID), "0")
    (newest,) = (tmp_path / "users" / UID).iterdir()
    os.utime(newest, (STORED_AT, STORED_AT))
    return LocalFolderStore(tmp_path)  # as the command has it: not opened


def page(store: LocalFolderStore, uid: str, seconds_later: float = 0.0) -> str:
    text = io.StringIO()
    console = Console(file=text, width=140)
    code = explain_user(store, uid, ARMS, as_json=False, console=console, now=STORED_AT + seconds_later)
    assert code == ExitCode.OK
    return text.getvalue()


def test_the_story_of_a_user_is_a_page(store: LocalFolderStore) -> None:
    text = page(store, UID, 3 * 3600.0)
    assert f"user {UID}, version 3" in text
    assert "began from the start adapter 0123456789ab" in text
    assert "last change of the state: 2025-10-09 08:53 UTC (3 hours ago)" in text
    assert [line.split()[:3] for line in text.splitlines() if "learnt" in line.split()[:1]] == [["learnt", "4", "in"]]
    assert "rejected: too_long" in text
    assert "longer than learning.max_response_tokens" in text
    (base,) = [line.split() for line in text.splitlines() if line.split()[:2] == ["base", "model"]]
    assert base[2:5] == ["3", "1", "0.11"]  # drafts, accepted, a third over three
    assert len(text.splitlines()) <= 50
    assert max(map(len, text.splitlines())) <= 140
    assert not any(word in text for word in ("event-one", "ünï", "topic-id")), "ids and places are nobody's story"


@pytest.mark.parametrize(
    ("seconds", "words"), [(-5.0, "less than a minute"), (61.0, "1 minute"), (7200.0, "2 hours"), (90_000.0, "1 day")]
)
def test_the_age_of_a_state_is_told_in_its_largest_unit(store: LocalFolderStore, seconds: float, words: str) -> None:
    assert f"({words} ago)" in page(store, UID, seconds)


def test_a_single_update_is_no_plural(store: LocalFolderStore) -> None:
    store.open(IDENTITY, must_exist=True)
    state, revision = store.load(UID)
    assert state is not None
    once = replace(state, version=4, statistics=replace(state.statistics, updates=1))
    store.save(UID, once, revision)
    assert "in 1 update\n" in "\n".join(line.rstrip() for line in page(store, UID).splitlines())


def test_an_erased_user_has_a_sentence_and_no_table(store: LocalFolderStore) -> None:
    text = page(store, OTHER_UID)
    assert "The user was erased" in text
    assert "edits" not in text


def test_the_story_as_json_holds_every_figure(store: LocalFolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain_user(store, UID, ARMS, as_json=True, console=Console(), now=0.0) == ExitCode.OK
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (told["uid"], told["version"], told["published"], told["erased"]) == (UID, 3, 3, False)
    assert told["start_adapter"] == "0123456789abcdef"
    assert told["start_adapter_of_new_users"] is None
    assert told["arm"] is None
    assert told["stored_at"] == "2025-10-09T08:53:20+00:00"
    assert told["edits"] == {
        "events": 7,
        "learnt": 4,
        "updates": 2,
        "accepted": 1,
        "no_difference": 1,
        "rejected": {"too_long": 1},
    }
    assert told["accuracy"]["value"] == 2.5 / 4
    assert [row["versions"] for row in told["drafts"]] == ["base model", "not named"]
    assert told["sentences"]


def test_the_story_names_the_arm(store: LocalFolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert "arm" not in page(store, UID)
    store.open(IDENTITY, must_exist=True)
    state, revision = store.load(UID)
    assert state is not None
    store.save(UID, replace(state, version=4, participation=Participation("off", ARMS.by_name["off"].digest)), revision)
    assert "arm off" in page(store, UID).splitlines()
    assert "The user joined as a holdout: edits are only counted." in page(store, UID)
    explain_user(store, UID, ARMS, as_json=True, console=Console(), now=0.0)
    assert json.loads(capsys.readouterr().out)["arm"] == "off"


@pytest.mark.parametrize(("now", "told"), [("0123456789abcdef", False), ("another", True), (None, True)])
def test_a_start_adapter_that_is_not_todays_is_told(
    store: LocalFolderStore, capsys: pytest.CaptureFixture[str], now: str | None, told: bool
) -> None:
    store.open(replace(IDENTITY, start_adapter=now), must_exist=True)
    store.save("f" * 32, released_state(1, uid="f" * 32), "0")  # with it, `store.json` names today's
    assert ("began from another start adapter" in page(store, UID)) == told
    capsys.readouterr()  # the log of the opening
    explain_user(store, UID, ARMS, as_json=True, console=Console(), now=0.0)
    assert json.loads(capsys.readouterr().out)["start_adapter_of_new_users"] == now


def test_a_user_is_named_by_user_id_or_by_pseudonym(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", SECRET)
    monkeypatch.setenv("CORLLD_STATE__PATH", str(tmp_path))
    assert main(["explain", "--uid", UID]) == ExitCode.OK
    assert f"user {UID}, version 3" in capsys.readouterr().out
    assert main(["explain", "ann"]) == ExitCode.DATA
    said = capsys.readouterr().err
    assert "the store has no state of this user: either the id is misspelt, or no event of the user was applied" in said
    assert "`corlld state show` lists the users" in said
    with pytest.raises(SystemExit) as ended:
        main(["explain"])
    assert ended.value.code == ExitCode.USAGE


@pytest.mark.parametrize(("uid", "code"), [("0" * 32, ExitCode.DATA), ("../../etc", ExitCode.USAGE)])
def test_a_user_who_is_not_there_is_a_sentence(store: LocalFolderStore, uid: str, code: ExitCode) -> None:
    with pytest.raises(FatalError) as caught:
        page(store, uid)
    assert caught.value.exit_code == code


def test_a_torn_state_is_a_sentence(store: LocalFolderStore, tmp_path: Path) -> None:
    (file,) = (tmp_path / "users" / UID).iterdir()
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(FatalError, match="can't be used") as caught:
        page(store, UID)
    assert caught.value.exit_code is ExitCode.DATA


def test_looking_changes_nothing(store: LocalFolderStore, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    page(store, UID)
    page(store, OTHER_UID)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
