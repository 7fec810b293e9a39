"""Users in arms, as the loop sees them: who joins, who is held out, and what a change of the settings does."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from corlld.durable import Participation
from corlld.experiment.arms import Arms
from corlld.records import TrainingBatch
from corlld.settings.sections import Settings
from tests.support.daemon_parts import PSEUDONYMS, Parts, begun, records, value
from tests.support.fakes import ListingLearner

SHARE = 0.9  # has the users `ann` and `bob` in it
HOLDOUT: dict[str, Any] = {"name": "off", "share": SHARE, "holdout": True}
IMITATING: dict[str, Any] = {"name": "imitating", "share": SHARE, "learning": {"imitation_weight": 0.3}}


def parts(*arms: dict[str, Any], drafts: int = 2) -> Parts:
    return Parts(experiment={"arms": list(arms), "drafts": drafts}, batching={"max_events": 4})


def terms(arm: dict[str, Any]) -> str:
    settings = Settings.model_validate({"experiment": {"arms": [arm]}})
    return Arms(settings.experiment, settings.learning, settings.guard).by_name[arm["name"]].digest


def test_a_holdout_learns_nothing_and_publishes_nothing_and_is_counted() -> None:
    off = parts(HOLDOUT)
    asked: list[TrainingBatch] = []
    off.learner = ListingLearner(asked.extend)
    events = [value(f"e{number}", edited="draft" if number == 1 else "text") for number in range(11)]
    source = off.run(begun(*records(*events)))
    state = off.state()
    assert asked == []
    assert (state.adapter, state.release, state.version) == (None, None, 0)
    assert off.publisher.out == {}
    assert source.final == dict.fromkeys(source.final, 11)
    assert (state.statistics.events, state.statistics.acceptances, state.statistics.updates) == (11, 1, 0)
    assert state.statistics.first_drafts.events == 8
    assert state.arm == "off"
    assert state.participation is not None
    assert (state.participation.outcome.events, state.participation.outcome.edit_ratio_sum) == (2, 2.0 * 4 / 5)


def test_an_outcome_is_frozen_after_its_number_of_drafts() -> None:
    plain = parts(IMITATING)
    plain.run(begun(*records(*(value(f"e{number}") for number in range(10)))))
    frozen = plain.state().participation
    assert frozen is not None
    assert frozen.completed_at is not None
    plain.run(begun(*records(*(value(f"e{number}", edited="draft") for number in range(10, 20)), first=10)))
    assert plain.state().participation == frozen
    assert plain.state().statistics.events == 20


def test_each_user_is_taught_by_the_rule_of_the_arm() -> None:
    half = parts(IMITATING | {"share": 0.5}, HOLDOUT | {"share": 0.2})
    users = [f"user-{number}" for number in range(40)]
    taught: dict[str, str] = {}
    half.learner = ListingLearner(lambda batches: taught.update({batch.uid: batch.arm for batch in batches}))
    half.run(begun(*(records(value(u, u), user=u, first=n)[0] for n, u in enumerate(users))))
    arms = Arms(half.settings.experiment, half.settings.learning, half.settings.guard)
    drawn = {PSEUDONYMS.uid(user): arms.drawn(PSEUDONYMS.uid(user)).name for user in users}
    assert taught == {uid: arm for uid, arm in drawn.items() if arm != "off"}
    assert set(drawn.values()) == {"imitating", "off", "default"}
    assert {half.state(user).arm for user in users} == {"imitating", "off", "default"}
    assert all(half.state(user).arm == drawn[PSEUDONYMS.uid(user)] for user in users)


def test_a_user_from_before_the_experiment_is_in_no_arm_and_learns_on() -> None:
    later = parts()
    later.run(begun(*records(value("a"))))
    assert later.state().participation is None
    later.settings = parts(HOLDOUT).settings
    later.run(begun(*records(value("b"), first=1)))
    assert later.applied_ids() == ("a", "b")
    assert later.state().participation is None


def test_an_erased_user_who_comes_back_is_new_and_joins() -> None:
    again = parts()
    again.run(begun(*records(value("a"), value("b", type="erase"))))
    again.settings = parts(HOLDOUT).settings
    again.run(begun(*records(value("c"), first=2)))
    assert again.state().arm == "off"
    assert again.state().adapter is None
    again.run(begun(*records(value("d", type="erase"), first=3)))
    assert again.state().participation is None


@pytest.mark.parametrize(
    ("now", "logged"),
    [
        ([], [("arm_retired", "imitating")]),
        ([HOLDOUT], [("arm_retired", "imitating")]),
        ([IMITATING | {"learning": {"imitation_weight": 0.2}}], [("arm_changed", "imitating")]),
        ([IMITATING | {"share": 0.1}], []),  # of new users alone
        # Turned into a holdout: users who joined it with an adapter learn on, by [learning].
        ([HOLDOUT | {"name": "imitating"}], [("arm_changed", "imitating")]),
    ],
)
def test_a_change_of_the_settings_moves_no_user_and_is_logged_once(
    now: list[dict[str, Any]], logged: list[tuple[str, str]]
) -> None:
    before = parts(IMITATING)
    users = ["ann", "bob"]
    before.run(begun(*(records(value(u, u), user=u, first=n)[0] for n, u in enumerate(users))))
    before.settings = parts(*now).settings
    with capture_logs() as entries:
        before.run(begun(*(records(value(f"{u}2", u), user=u, first=2 + n)[0] for n, u in enumerate(users))))
    found = [(entry["event"], entry["arm"]) for entry in entries if entry["event"].startswith("arm_")]
    assert found == logged
    for user in users:
        assert before.applied_ids(user) == (user, f"{user}2")
        assert before.state(user).participation == Participation("imitating", terms(IMITATING))


def test_a_holdout_that_is_taken_out_of_the_settings_begins_to_learn() -> None:
    over = parts(HOLDOUT)
    over.run(begun(*records(value("a"))))
    over.settings = parts().settings
    over.run(begun(*records(value("b"), first=1)))
    assert over.applied_ids() == ("b",)
    assert over.state().arm == "off"
