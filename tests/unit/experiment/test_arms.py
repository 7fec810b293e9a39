"""A user's arm: exact, stable, and in the shares of the settings."""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from corlld.durable import Participation, Statistics, UserState
from corlld.experiment.arms import Arms, arm_point
from corlld.settings.learning_rule import RULE_OF_AN_ARM
from corlld.settings.sections import ExperimentSettings, GuardSettings, LearningSettings

UIDS = [hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in range(20_000)]
SHARES = {"off": 0.05, "imitating": 0.3, "slow": 0.15}
ARMS: list[dict[str, Any]] = [
    {"name": "off", "share": 0.05, "holdout": True},
    {"name": "imitating", "share": 0.3, "learning": {"imitation_weight": 0.3}},
    {"name": "slow", "share": 0.15, "learning": {"lr": 1e-4}},
]


def arms(*given: dict[str, Any], guard: dict[str, Any] | None = None, **rule: Any) -> Arms:
    experiment = ExperimentSettings.model_validate({"arms": list(given)})
    return Arms(experiment, LearningSettings(**rule), GuardSettings(**(guard or {})))


def test_a_point_is_the_keyed_hash_of_the_uid() -> None:
    digest = hashlib.blake2b(b"a" * 32, key=b"corlld/arms", digest_size=8).hexdigest()
    assert arm_point("a" * 32) == pytest.approx(int(digest, 16) / 2**64, abs=2**-52)
    assert all(0 <= arm_point(uid) < 1 for uid in UIDS)


def test_arms_have_their_shares_of_the_users_and_the_default_the_rest() -> None:
    drawn = Counter(arms(*ARMS).drawn(uid).name for uid in UIDS)
    for name, share in (SHARES | {"default": 0.5}).items():
        five_deviations = 5 * (share * (1 - share) / len(UIDS)) ** 0.5
        assert drawn[name] / len(UIDS) == pytest.approx(share, abs=five_deviations)


def test_a_new_arm_at_the_end_takes_its_users_from_the_default_alone() -> None:
    before, after = arms(*ARMS[:2]), arms(*ARMS)
    moved = {(before.drawn(uid).name, after.drawn(uid).name) for uid in UIDS}
    assert moved == {("off", "off"), ("imitating", "imitating"), ("default", "default"), ("default", "slow")}


def test_shares_of_nearly_the_whole_leave_hardly_a_user_to_the_default() -> None:
    thirds = [{"name": name, "share": 1 / 3 - 1e-8, "learning": {"lr": 1e-4}} for name in ("a", "b", "c")]
    assert {arms(*thirds).drawn(uid).name for uid in UIDS[:2000]} == {"a", "b", "c"}


def test_without_arms_nobody_joins() -> None:
    assert not arms()
    assert arms().joined(UIDS[0], None) is None
    assert arms().rule_of(None) == "default"


def test_a_user_stays_in_the_arm_of_the_state_whatever_the_settings_say() -> None:
    part = Participation("gone", "terms")
    state = UserState(UIDS[0], participation=part)
    assert arms(*ARMS).joined(UIDS[0], state) is part
    assert arms(*ARMS).rule_of(part) == "default"
    assert not arms(*ARMS).holds_out(part)


@pytest.mark.parametrize(
    ("state", "joins"),
    [
        (UserState(UIDS[0]), True),
        (UserState(UIDS[0], version=3, erased=True, erased_through=3), True),
        (UserState(UIDS[0], statistics=Statistics(events=1)), False),
        (UserState(UIDS[0], version=3), False),  # the state was lost, and versions are out
    ],
    ids=["new", "erased", "known", "lost"],
)
def test_only_who_has_no_history_joins(state: UserState, joins: bool) -> None:
    assert (arms(*ARMS).joined(UIDS[0], state) is not None) == joins


def test_the_terms_change_with_the_rule_and_with_nothing_else() -> None:
    before = arms(*ARMS).by_name
    shared = arms(*(arm | {"share": 0.1} for arm in ARMS), max_row_tokens=7).by_name
    assert [arm.digest for arm in before.values()] == [arm.digest for arm in shared.values()]
    other = arms(*ARMS, beta=0.2).by_name
    changed = {name for name in before if before[name].digest != other[name].digest}
    assert changed == {"imitating", "slow", "default"}, "a holdout has no rule"
    assert len({arm.digest for arm in before.values()}) == 4
    assert replace(before["off"], share=0.1) == shared["off"]


@pytest.mark.parametrize("guard", [{"max_drift_nats": 0.5}, {"every_steps": 2}, {"max_repetition_rise": 1.0}], ids=str)
def test_the_terms_change_with_the_guard_which_decides_what_is_learnt(guard: dict[str, Any]) -> None:
    before, after = arms(*ARMS).by_name, arms(*ARMS, guard=guard).by_name
    assert {name for name in before if before[name].digest != after[name].digest} == {"imitating", "slow", "default"}


def test_every_setting_of_the_guard_is_part_of_the_terms() -> None:
    """A new one has to be added to the terms, and to the test above."""
    assert set(GuardSettings.model_fields) == {"max_drift_nats", "every_steps", "max_repetition_rise"}


FIRST_RULE = ["beta", "epsilon", "reference", "anchor", "imitation_weight", "acceptance_weight", "rehearsal_weight"]
FIRST_RULE += ["lr", "beta1", "beta2", "adam_eps", "max_gradient_norm", "pairs_per_step", "steps_per_batch"]
BEFORE_THEY_WERE_SETTINGS = {"margin": "tail", "imitation_tokens": "tail", "replay_pairs": 0}


def digest(names: list[str], **rule: Any) -> str:
    values = {name: getattr(LearningSettings(**rule), name) for name in names}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def test_a_rule_that_does_what_corlld_always_did_has_the_terms_of_before_whatever_the_defaults_are() -> None:
    """Terms that were stored before the setting was there stay comparable only so."""
    assert arms(*ARMS, **BEFORE_THEY_WERE_SETTINGS).by_name["default"].digest == digest(FIRST_RULE)


def test_a_rule_that_does_anything_else_has_other_terms() -> None:
    for name, value in {"margin": "changed", "imitation_tokens": "changed", "replay_pairs": 4}.items():
        rule = BEFORE_THEY_WERE_SETTINGS | {name: value}
        assert arms(*ARMS, **rule).by_name["default"].digest == digest([*FIRST_RULE, name], **rule)


def test_each_setting_of_a_rule_is_of_the_first_rule_or_has_what_corlld_did_before_it() -> None:
    assert set(RULE_OF_AN_ARM) == {*FIRST_RULE, *BEFORE_THEY_WERE_SETTINGS}
