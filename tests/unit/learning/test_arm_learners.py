"""Users of several arms in one call: each is taught by its own arm's rule, and to the bit as if alone."""

import pytest
import torch

from corlld.learning.arm_learners import ArmLearners
from corlld.learning.learner import CorllLearner
from corlld.learning.model.resident import ResidentModel
from corlld.learning.start_adapter import References, StartAdapter
from corlld.records import TrainingBatch
from corlld.settings.learning_rule import DEFAULT_ARM
from corlld.settings.sections import GuardSettings, LearningSettings
from tests.support.learning import EDITS, weights

NOT_TRUSTED = GuardSettings(max_drift_nats=1e9)
RULES = {
    DEFAULT_ARM: LearningSettings(lr=1e-2, max_row_tokens=1),
    "imitating": LearningSettings(lr=1e-2, max_row_tokens=1, imitation_weight=1.0, steps_per_batch=2),
    "plain": LearningSettings(lr=3e-2, max_row_tokens=1, rehearsal_weight=0.0, pairs_per_step=2),
}


def learners(resident: ResidentModel, start: StartAdapter | None = None) -> ArmLearners:
    first = CorllLearner(resident, RULES[DEFAULT_ARM], NOT_TRUSTED, 4, start=start)
    others = {name: CorllLearner(resident, rule, NOT_TRUSTED, 4, beside=first) for name, rule in RULES.items()}
    return ArmLearners({**others, DEFAULT_ARM: first})


def test_each_user_learns_by_the_rule_of_the_arm_as_if_the_others_were_not_there(resident: ResidentModel) -> None:
    arms = {"ann": "imitating", "bob": DEFAULT_ARM, "cy": "plain", "di": "imitating"}
    together = learners(resident)
    adapters = dict.fromkeys(arms)
    for _ in range(2):  # the second time from what the first one learnt
        outcomes = together.update([TrainingBatch(uid, adapters[uid], EDITS, arm) for uid, arm in arms.items()])
        assert [outcome.uid for outcome in outcomes] == list(arms)
        for outcome, arm in zip(outcomes, arms.values(), strict=True):
            own = CorllLearner(resident, RULES[arm], NOT_TRUSTED, 1)
            (alone,) = own.update([TrainingBatch(outcome.uid, adapters[outcome.uid], EDITS)])
            assert torch.equal(weights(outcome), weights(alone))
            assert outcome.steps == alone.steps
            assert (outcome.plain_text_drop_nats is None) == (arm == "plain")
        adapters = {outcome.uid: outcome.adapter for outcome in outcomes}


def test_users_of_all_arms_begin_from_one_start_adapter_that_the_device_holds_once(
    resident: ResidentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[References] = []
    hold = References.__init__

    def counted(references: References, start: StartAdapter | None, device: torch.device) -> None:
        held.append(references)
        hold(references, start, device)

    start = StartAdapter(torch.randn(resident.layout.size, generator=torch.Generator().manual_seed(0)) * 0.05, "digest")
    with monkeypatch.context() as patch:
        patch.setattr(References, "__init__", counted)
        together = learners(resident, start)
    assert len(held) == 1
    outcomes = together.update([TrainingBatch(arm, None, EDITS, arm) for arm in RULES])
    for outcome, rule in zip(outcomes, RULES.values(), strict=True):
        own = CorllLearner(resident, rule, NOT_TRUSTED, 1, start=start)
        (alone,) = own.update([TrainingBatch(outcome.uid, None, EDITS)])
        assert outcome.adapter is not None
        assert outcome.adapter.start == "digest"
        assert torch.equal(weights(outcome), weights(alone))


def test_progress_and_tokens_are_those_of_all_arms(resident: ResidentModel) -> None:
    together = learners(resident)
    seen = [(together.progress, together.tokens.computed)]
    for arm in RULES:
        together.update([TrainingBatch("ann", None, EDITS, arm)])
        seen.append((together.progress, together.tokens.computed))
    assert seen == sorted(set(seen))
    assert together.model_info == resident.info


def test_a_user_who_is_there_twice_is_refused_also_in_two_arms(resident: ResidentModel) -> None:
    batches = [TrainingBatch("ann", None, EDITS, arm) for arm in (DEFAULT_ARM, "plain")]
    with pytest.raises(ValueError, match="more than one batch"):
        learners(resident).update(batches)
