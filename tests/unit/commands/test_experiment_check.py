"""What `corlld check` says of the experiment: arms that change nothing, and changes that take users out of it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from corlld.commands.experiment_check import HOLDOUT_ADVICE, described, left_out
from corlld.durable import DraftFigures, Participation, Statistics, StoreIdentity, UserState
from corlld.errors import RetriableError
from corlld.experiment.arms import Arms
from corlld.settings.sections import LearningSettings, Settings
from corlld.state.store import LocalFolderStore
from tests.support.states import adapter

OFF: dict[str, Any] = {"name": "off", "share": 0.05, "holdout": True}
SLOW: dict[str, Any] = {"name": "slow", "share": 0.25, "learning": {"lr": 1e-4}}


def arms(*given: dict[str, Any], **learning: Any) -> Arms:
    settings = Settings.model_validate({"experiment": {"arms": given}, "learning": learning})
    return Arms(settings.experiment, settings.learning, settings.guard)


def test_arms_are_named_with_their_shares_and_a_holdout_is_recommended() -> None:
    assert list(described(arms())) == ["no arms", HOLDOUT_ADVICE]
    assert list(described(arms(SLOW))) == ["slow 0.25, default 0.75", HOLDOUT_ADVICE]
    assert list(described(arms(SLOW, OFF))) == ["slow 0.25, off 0.05 (no learning), default 0.7"]


@pytest.mark.parametrize(
    ("given", "remarks"),
    [
        ([SLOW | {"learning": {"lr": LearningSettings().lr, "beta": 0.1}}], [("slow", "default")]),
        ([SLOW | {"learning": {"lr": LearningSettings().lr}}], [("slow", "default")]),  # the value of [learning]
        ([SLOW, SLOW | {"name": "too"}], [("too", "slow")]),
        ([SLOW, SLOW | {"name": "too", "learning": {"lr": 2e-3}}], []),
    ],
    ids=["equal-in-two", "equal", "two", "different"],
)
def test_an_arm_with_the_rule_of_another_is_remarked_upon(
    given: Sequence[dict[str, Any]], remarks: list[tuple[str, str]]
) -> None:
    """It is no error: such an A/A test shows whether the outcomes can be trusted."""
    _, *lines = described(arms(OFF, *given))
    assert lines == [
        f"arm {arm} has the same rule as arm {other}: they differ by chance alone (an A/A test). To compare rules, set "
        f"`learning` of arm {arm} to values that arm {other} does not have"
        for arm, other in remarks
    ]


@pytest.fixture
def store(tmp_path: Path) -> LocalFolderStore:
    """A store with six users of a running experiment."""
    opened = LocalFolderStore(tmp_path / "state")
    opened.open(StoreIdentity("f", "c", "g", "m", "r", "a", start_adapter="one"), must_exist=False)
    joined = arms(OFF, SLOW).by_name
    for number, arm in enumerate(("off", "slow", "slow", "default", "default", "default")):
        part = Participation(arm, joined[arm].digest, DraftFigures(4, 1, 1.0, 0.4), completed_at=1.0)
        statistics = Statistics(events=12, first_drafts=DraftFigures(8, 1, 4.0, 0.8))
        state = UserState(f"{number:032x}", statistics=statistics, participation=part)
        began = None if arm == "off" else replace(adapter(), start="one")
        opened.save(state.uid, replace(state, adapter=began), "0")
    return opened


@pytest.mark.parametrize(
    ("now", "drafts", "start", "expected"),
    [
        (arms(OFF, SLOW), 4, "one", []),
        (arms(OFF, SLOW | {"share": 0.5}), 4, "one", []),  # of new users alone
        (arms(), 24, "two", []),  # there is no experiment any more
        (arms(OFF, SLOW | {"learning": {"lr": 2e-4}}), 4, "one", ["2 users of arm slow are left out: joined under"]),
        (arms(OFF, SLOW, beta=0.2), 4, "one", ["2 users of arm slow are left", "3 users of arm default are left"]),
        (arms(OFF), 4, "one", ["2 users are in arm slow, which is not in the settings"]),
        (
            arms(OFF, SLOW),
            4,
            "two",
            [
                f"{users} are left out: began from another"
                for users in ("2 users of arm slow", "3 users of arm default")
            ],
        ),
        (
            arms(OFF, SLOW),
            5,
            "one",
            ["1 user of arm off is left out: with an outcome over", "2 users of arm slow", "3 users of arm default"],
        ),
    ],
    ids=["nothing", "share", "over", "arm", "learning", "gone", "start", "drafts"],
)
def test_a_change_that_takes_users_out_of_a_running_experiment_is_said(
    store: LocalFolderStore, now: Arms, drafts: int, start: str | None, expected: list[str]
) -> None:
    lines = list(left_out(now, store, drafts, start))
    assert len(lines) == len(expected)
    for line, beginning in zip(lines, expected, strict=True):
        assert line.startswith(f"changed while it runs: of 6 users looked at, {beginning}")


def test_only_so_many_users_are_looked_at(store: LocalFolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corlld.commands.experiment_check.LOOK_USERS", 3)
    (line,) = left_out(arms(OFF, SLOW, beta=0.2), store, 4, "one")
    assert line.startswith("changed while it runs: of 3 users looked at, ")


def test_a_state_that_can_t_be_read_is_passed_over(store: LocalFolderStore, tmp_path: Path) -> None:
    (file,) = (tmp_path / "state" / "users" / f"{1:032x}").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    (line,) = left_out(arms(OFF, SLOW | {"learning": {"lr": 2e-4}}), store, 4, "one")
    assert line.startswith("changed while it runs: of 6 users looked at, 1 user of arm slow is left out")


def test_a_state_that_can_t_be_reached_is_passed_over(store: LocalFolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = store.load_header

    def load_header(uid: str) -> UserState | None:
        if uid == f"{1:032x}":
            raise RetriableError("EIO")
        return real(uid)

    monkeypatch.setattr(store, "load_header", load_header)
    (line,) = left_out(arms(OFF, SLOW | {"learning": {"lr": 2e-4}}), store, 4, "one")
    assert line.startswith("changed while it runs: of 6 users looked at, 1 user of arm slow is left out")


def test_the_time_of_a_long_listing_takes_nothing_from_the_look(
    store: LocalFolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    uids, now = list(store.uids()), [0.0]

    def listed() -> Iterator[str]:
        now[0] += 60.0
        yield from uids

    monkeypatch.setattr(store, "uids", listed)
    monkeypatch.setattr("corlld.commands.experiment_check.time", SimpleNamespace(monotonic=lambda: now[0]))
    lines = list(left_out(arms(OFF, SLOW, beta=0.2), store, 4, "one"))
    assert lines
    assert all(line.startswith("changed while it runs: of 6 users looked at, ") for line in lines)
