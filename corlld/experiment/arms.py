"""Arms: the share of users in each, a user's own arm, and the rule that the users of an arm learn by. Pure.

A user joins with the first event, and stays in that arm: the state keeps it. A point in [0, 1) is made of the uid by a
keyed hash. The arms of the settings lie one after the other from 0 on, and what they leave is the arm `default`. So an
arm is the same after restarts, on every daemon and on every machine with the same secret and settings.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from corlld.durable import Participation, UserState
from corlld.settings.learning_rule import DEFAULT_ARM, RULE_OF_AN_ARM
from corlld.settings.sections import ExperimentSettings, GuardSettings, LearningSettings

_KEY = b"corlld/arms"  # a domain of its own: nothing else that is made of uids may agree with the arms
_HOLDOUT_TERMS = "holdout"
# What corlld did before it had the setting, or before the setting was part of a digest. Such values are left out of a
# digest: an upgrade alone must not make the users of a running experiment incomparable. They never follow the defaults:
# a new default is a new rule.
_LEFT_OUT = {
    "margin": "tail",
    "imitation_tokens": "tail",
    "replay_pairs": 0,
    "guard.max_drift_nats": 1.0,
    "guard.every_steps": 1,
    "guard.max_repetition_rise": 0.4,
}


@dataclass(frozen=True, slots=True)
class ArmTerms:
    """What an arm offers its users at present.

    rule: None for a holdout. digest: of the rule and of the guard, which decides what is learnt too; 16 hex digits.
    """

    name: str
    share: float
    rule: LearningSettings | None
    digest: str


class Arms:
    """The arms of the settings, the default among them; none if there is no experiment."""

    def __init__(self, experiment: ExperimentSettings, learning: LearningSettings, guard: GuardSettings) -> None:
        arms = [
            _terms(arm.name, arm.share, None if arm.holdout else learning.model_copy(update=dict(arm.learning)), guard)
            for arm in experiment.arms
        ]
        if arms:
            arms.append(_terms(DEFAULT_ARM, 1 - sum(arm.share for arm in arms), learning, guard))
        self.by_name: Mapping[str, ArmTerms] = {arm.name: arm for arm in arms}

    def __bool__(self) -> bool:
        return bool(self.by_name)

    @property
    def rules(self) -> dict[str, LearningSettings]:
        """The rule of each arm that learns."""
        return {arm.name: arm.rule for arm in self.by_name.values() if arm.rule is not None}

    @property
    def holdouts(self) -> list[str]:
        """The names of the arms that learn nothing."""
        return [arm.name for arm in self.by_name.values() if arm.rule is None]

    def drawn(self, uid: str) -> ArmTerms:
        """Return the arm that a new user is put into. There must be an experiment."""
        point, end = arm_point(uid), 0.0
        for arm in self.by_name.values():
            end += arm.share
            if point < end and arm.name != DEFAULT_ARM:
                return arm
        return self.by_name[DEFAULT_ARM]

    def joined(self, uid: str, state: UserState | None) -> Participation | None:
        """Return the user's part in the experiment: as the state has it, or new for a user who has no history.

        None for a user who was there before the experiment: what such a user learnt belongs to no arm. A user who comes
        back after an erasure is new.
        """
        if state is not None and state.participation is not None:
            return state.participation
        is_new = state is None or (not state.statistics.events and state.version == state.erased_through)
        if not self or not is_new:
            return None
        arm = self.drawn(uid)
        return Participation(arm.name, arm.digest)

    def terms_of(self, participation: Participation) -> ArmTerms | None:
        """Return the user's arm; None if it is gone, or has another rule than when the user joined it."""
        arm = self.by_name.get(participation.arm)
        return arm if arm is not None and arm.digest == participation.terms else None

    def holds_out(self, participation: Participation | None) -> bool:
        """Return whether nothing is learnt from the user.

        Only a user who joined the arm as a holdout is held out: others have an adapter, which would grow old.
        """
        arm = None if participation is None else self.terms_of(participation)
        return arm is not None and arm.rule is None

    def rule_of(self, participation: Participation | None) -> str:
        """Return the name of the arm whose rule teaches the user: the user's own if it has one, else the default."""
        name = None if participation is None else participation.arm
        return name if name in self.rules else DEFAULT_ARM


def began_elsewhere(state: UserState, start: str | None) -> bool:
    """Return whether the user began from another adapter than new users do now. Then the user is not compared.

    start: the digest of the start adapter of new users; None if they begin from the base model.
    """
    return state.adapter is not None and state.adapter.start != start


def arm_point(uid: str) -> float:
    """Return the user's point in [0, 1): 53 bits of a keyed hash of the uid."""
    digest = hashlib.blake2b(uid.encode(), key=_KEY, digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


def _terms(name: str, share: float, rule: LearningSettings | None, guard: GuardSettings) -> ArmTerms:
    if rule is None:
        return ArmTerms(name, share, None, _HOLDOUT_TERMS)
    values = {key: getattr(rule, key) for key in RULE_OF_AN_ARM}
    values |= {f"guard.{key}": value for key, value in guard}
    told = {key: value for key, value in values.items() if value != _LEFT_OUT.get(key)}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
    return ArmTerms(name, share, rule, digest)
