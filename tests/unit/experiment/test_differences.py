"""Arms against the holdout and against the default, in sentences; who is counted, and who is left out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from corlld.durable import AdapterHeader, DraftFigures, Participation, Statistics, UserState
from corlld.experiment.arms import Arms
from corlld.experiment.confidence import Interval, difference_of, sample_of
from corlld.experiment.differences import Comparison, comparisons
from corlld.experiment.tally import (
    ANOTHER_RULE,
    ANOTHER_START,
    OTHER_DRAFTS,
    ArmFigures,
    Tally,
    in_order,
    version_class,
)
from corlld.settings.sections import ExperimentSettings, GuardSettings, LearningSettings

DRAFTS = 4
DAY = 86_400.0
ARMS: list[dict[str, Any]] = [
    {"name": "off", "share": 0.2, "holdout": True},
    {"name": "imitating", "share": 0.3, "learning": {"imitation_weight": 0.3}},
]


def arms() -> Arms:
    experiment = ExperimentSettings.model_validate({"arms": ARMS, "drafts": DRAFTS})
    return Arms(experiment, LearningSettings(), GuardSettings())


def user(arm: str, ratio_sum: float = 1.0, *, drafts: int = DRAFTS, terms: str | None = None) -> UserState:
    """Return the state of a user with an outcome."""
    own = terms or arms().by_name[arm].digest
    statistics = Statistics(
        events=8 + drafts,
        first_drafts=DraftFigures(8, 1, 4.0, 0.8),
        drafts={"0": DraftFigures(8, 1, 4.0, 0.8), "3": DraftFigures(drafts, 1, ratio_sum, 0.4)},
    )
    part = Participation(arm, own, DraftFigures(drafts, 1, ratio_sum, 0.4), completed_at=DAY)
    return UserState("u", statistics=statistics, participation=part)


def test_users_are_counted_into_their_arms() -> None:
    tally = Tally(arms(), DRAFTS)
    for state in (user("off", 2.0), user("off", 1.0), user("imitating"), user("default")):
        tally.add(state)
    off = tally.arms["off"]
    assert (off.users, off.left_out, off.outcomes, off.saved) == (2, 0, [0.5, 0.25], [0.0, 0.25])
    assert off.versions == {"0": DraftFigures(16, 2, 8.0, 1.6), "2-3": DraftFigures(8, 2, 3.0, 0.8)}
    assert (off.first.events, off.later.events) == (16, 8)
    assert tally.arms["default"].users == tally.arms["imitating"].users == 1


def test_whoever_can_t_be_compared_is_counted_apart() -> None:
    tally = Tally(arms(), DRAFTS)
    tally.add(user("imitating", terms="of before"))
    tally.add(user("imitating", drafts=DRAFTS + 1))
    tally.add(user("gone", terms="x"))
    tally.add(UserState("u", statistics=Statistics(events=3)))
    tally.add(UserState("u", erased=True))
    imitating = tally.arms["imitating"]
    assert (imitating.users, imitating.left_out, imitating.outcomes, imitating.later.events) == (2, 2, [], 0)
    assert dict(imitating.reasons) == {ANOTHER_RULE: 1, OTHER_DRAFTS: 1}
    assert (dict(tally.retired), tally.in_no_arm) == ({"gone": 1}, 1)


@pytest.mark.parametrize(
    ("began_from", "start", "left_out"),
    [(None, "new", 1), ("old", "new", 1), ("old", None, 1), ("new", "new", 0), (None, None, 0)],
)
def test_whoever_began_from_another_start_adapter_is_left_out(
    began_from: str | None, start: str | None, left_out: int
) -> None:
    tally = Tally(arms(), DRAFTS, start=start)
    tally.add(replace(user("imitating"), adapter=AdapterHeader(optimizer_step=3, start=began_from)))
    tally.add(user("imitating"))  # has not begun yet
    tally.add(user("off"))  # never begins
    assert tally.arms["imitating"].left_out == left_out
    assert dict(tally.arms["imitating"].reasons) == ({ANOTHER_START: 1} if left_out else {})
    assert len(tally.arms["imitating"].outcomes) == 2 - left_out
    assert tally.arms["off"].left_out == 0


def test_an_outcome_that_is_not_complete_is_no_outcome_yet() -> None:
    tally = Tally(arms(), DRAFTS)
    state = user("off", drafts=DRAFTS - 1)
    assert state.participation is not None
    tally.add(replace(state, participation=replace(state.participation, completed_at=None)))
    assert (tally.arms["off"].users, tally.arms["off"].outcomes, tally.arms["off"].later.events) == (1, [], 3)


def test_classes_of_versions_double() -> None:
    versions = ["0", "1", "2", "3", "4", "7", "8", "100", "older", "unknown"]
    classes = ["0", "1", "2-3", "2-3", "4-7", "4-7", "8-15", "64-127", "older", "unknown"]
    assert [version_class(version) for version in versions] == classes
    assert in_order(set(classes)) == ["0", "older", "1", "2-3", "4-7", "8-15", "64-127", "unknown"]


def figures(mean: float, users: int, seed: int) -> ArmFigures:
    outcomes = np.random.default_rng(seed).normal(mean, 0.1, users).clip(0, 1)
    # One outcome an hour, the last one at day 100.
    return ArmFigures(users, outcomes=list(outcomes), completed_at=[100 * DAY - 3600 * n for n in range(users)])


def compared(**found: ArmFigures) -> dict[tuple[str, str], Comparison]:
    tallied = {name: ArmFigures() for name in arms().by_name} | found
    all_of_them = comparisons(arms(), tallied, difference=0.05, now=100 * DAY)
    return {(each.arm, each.against): each for each in all_of_them}


def test_every_arm_that_learns_is_compared_with_the_holdout_and_with_the_default() -> None:
    assert list(compared()) == [("imitating", "off"), ("default", "off"), ("imitating", "default")]


def test_savings_are_the_difference_of_the_means_and_told_in_a_sentence() -> None:
    arms_found = {"off": figures(0.6, 200, 1), "default": figures(0.4, 500, 2)}
    found = compared(**arms_found)["default", "off"]
    saved = difference_of(*(sample_of(arms_found[name].outcome_array) for name in ("off", "default")))
    assert found.saved == saved
    assert 0.1 < saved.low < 0.2 < saved.high < 0.3
    low, mean, high = (f"{number:.2f}"[1:] for number in (saved.low, saved.mean, saved.high))
    assert found.sentence == f"arm default saves users {mean} of a draft ({low} to {high}) against no learning"


@pytest.mark.parametrize(
    ("saved", "sentence"),
    [
        (Interval(0.081, 0.03, 0.13), "arm a saves users .08 of a draft (.03 to .13) against arm b"),
        (Interval(-0.081, -0.13, -0.03), "arm a costs users .08 of a draft (.03 to .13) against arm b"),
        (Interval(0.02, -0.001, 0.1), "arm a: no difference to arm b is shown yet (.00 to .10 of a draft)"),
        (Interval(0.02, -0.04, 0.1), "arm a: no difference to arm b is shown yet (-.04 to .10 of a draft)"),
    ],
)
def test_what_is_known_is_a_sentence(saved: Interval, sentence: str) -> None:
    assert (
        Comparison("a", "b", is_holdout=False, saved=saved, difference=0.05, users_needed=0, days_needed=None).sentence
        == sentence
    )


@pytest.mark.parametrize(
    ("off", "default", "without"),
    [(0, 40, "arm off"), (40, 0, "arm default"), (0, 0, "arm default or of arm off")],
)
def test_the_arms_without_an_outcome_are_named(off: int, default: int, without: str) -> None:
    found = compared(off=figures(0.5, off, 1), default=figures(0.5, default, 2))["default", "off"]
    assert found.sentence == (
        f"arm default: nothing is known against no learning yet, since no user of {without} has an outcome"
    )


def test_what_it_still_takes_is_users_and_days_at_the_present_pace() -> None:
    found = compared(off=figures(0.5, 40, 1), default=figures(0.5, 160, 2))["default", "off"]
    assert found.users_needed > 0
    # Both arms' outcomes came one an hour: the holdout's 40, and the default's 160.
    pace = 200 / (159 / 24)
    assert found.days_needed == pytest.approx(found.users_needed / pace)
    days = round(found.days_needed)
    assert days > 1
    expected = f"{found.users_needed:,} more users are needed to see a difference of .05: about {days:,} more days"
    assert found.need == expected


@pytest.mark.parametrize(
    ("users", "days", "need"),
    [
        (1, 0.1, "1 more user is needed to see a difference of .05: about 1 more day"),
        (2000, 1.6, "2,000 more users are needed to see a difference of .05: about 2 more days"),
    ],
)
def test_what_it_still_takes_is_told_in_right_numbers(users: int, days: float, need: str) -> None:
    assert Comparison("a", "b", False, saved=None, difference=0.05, users_needed=users, days_needed=days).need == need


@pytest.mark.parametrize(("hours", "is_known"), [(0.1, False), (23.9, False), (24.1, True)])
def test_no_days_are_forecast_before_a_day_of_outcomes(hours: float, is_known: bool) -> None:
    """Of 40 users within minutes, a rate of thousands a day would be made."""
    default = figures(0.5, 40, 2)
    last, seconds = 100 * DAY, hours * 3600
    default.completed_at = [last - seconds * number / 39 for number in range(40)]
    found = compared(off=figures(0.5, 0, 1), default=default)["default", "off"]
    assert (found.days_needed is not None) == is_known
    if is_known:
        assert found.days_needed == pytest.approx(found.users_needed / 40 * hours / 24)


def test_a_burst_after_a_silence_is_no_pace_of_its_own() -> None:
    """Thirty outcomes of the last hour, and one of twenty days ago: thirty in two weeks."""
    default = figures(0.5, 31, 2)
    default.completed_at = [100 * DAY - 120 * number for number in range(30)] + [80 * DAY]
    found = compared(off=figures(0.5, 0, 1), default=default)["default", "off"]
    assert found.days_needed == pytest.approx(found.users_needed / (30 / 14))


def test_so_many_users_more_do_narrow_the_interval_that_far() -> None:
    need = compared(off=figures(0.5, 40, 1), default=figures(0.5, 160, 2))["default", "off"].users_needed

    def half_width(users: float) -> float:
        grown = [figures(0.5, round(before + users * share), 3) for before, share in ((160, 0.5), (40, 0.2))]
        found = difference_of(*(sample_of(each.outcome_array) for each in grown))
        return (found.high - found.low) / 2

    assert half_width(1.3 * need) < 0.05 < half_width(0.7 * need)


def test_nothing_more_is_needed_where_the_interval_is_narrow_enough() -> None:
    found = compared(off=figures(0.5, 2000, 1), default=figures(0.5, 4000, 2))["default", "off"]
    assert found.users_needed == 0
    assert found.need == "a difference of .05 would be seen by now"


def test_there_is_no_pace_before_ten_outcomes() -> None:
    found = compared(off=figures(0.5, 3, 1), default=figures(0.5, 3, 2))["default", "off"]
    assert found.days_needed is None
    assert found.need == (
        f"{found.users_needed:,} more users are needed to see a difference of .05: too early to say in how many days, "
        "which takes 10 outcomes of the last two weeks, and a day since the first"
    )
