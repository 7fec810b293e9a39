"""Steps that the guard undoes, and edits that are not learnt at all."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from corlld.adapters.layout import AdapterTensors
from corlld.errors import RejectReason
from corlld.learning.learner import CorllLearner
from corlld.learning.model.resident import ResidentModel
from corlld.records import PairStatus
from corlld.settings.sections import GuardSettings, LearningSettings
from tests.support.learning import EDITS, event, same_bits, update
from tests.support.tiny_models import make_tiny_model, tiny_resident


@pytest.mark.parametrize("every_steps", [1, 100])
def test_one_pair_that_is_not_finite_is_rejected_and_its_neighbours_in_the_step_are_applied(
    tmp_path: Path, every_steps: int
) -> None:
    resident = tiny_resident(make_tiny_model(tmp_path, "llama"))
    (token,) = resident.tokenizer("~", add_special_tokens=False)["input_ids"]
    resident.model.get_input_embeddings().weight[token] = float("nan")
    learner = CorllLearner(resident, LearningSettings(), GuardSettings(every_steps=every_steps), 1)

    outcome = update(learner, EDITS[0], event("see ~ then", "see ~ now"), EDITS[1])
    assert [pair.status for pair in outcome.pairs] == [PairStatus.APPLIED, PairStatus.REJECTED, PairStatus.APPLIED]
    assert outcome.pairs[1].reason is RejectReason.NON_FINITE
    assert outcome.pairs[1].margin is None
    assert outcome.steps == 2
    adapter = outcome.adapter
    assert isinstance(adapter, AdapterTensors)
    assert all(tensor.isfinite().all() for tensor in (adapter.weights, adapter.exp_avg, adapter.exp_avg_sq))


def test_a_step_that_makes_a_tensor_infinite_is_undone_even_where_its_drift_is_not_due(
    make: Callable[..., CorllLearner],
) -> None:
    fine = update(make(), *EDITS).adapter
    assert isinstance(fine, AdapterTensors)
    adapter = AdapterTensors(fine.weights, torch.full_like(fine.exp_avg, 3e38), fine.exp_avg_sq, fine.optimizer_step)
    outcome = update(make(GuardSettings(every_steps=100), lr=1e10), EDITS[0], adapter=adapter)
    assert outcome.pairs[0].reason is RejectReason.NON_FINITE
    assert outcome.pairs[0].margin is not None
    assert outcome.adapter is adapter


def test_a_step_that_would_keep_an_infinite_moment_is_undone_though_its_weights_are_finite(
    make: Callable[..., CorllLearner],
) -> None:
    fine = update(make(), *EDITS).adapter
    assert isinstance(fine, AdapterTensors)
    adapter = AdapterTensors(fine.weights, fine.exp_avg, torch.full_like(fine.exp_avg_sq, math.inf), 1)
    outcome = update(make(), EDITS[0], adapter=adapter)
    assert outcome.pairs[0].reason is RejectReason.NON_FINITE
    assert outcome.adapter is adapter


def test_finite_weights_under_which_the_model_is_not_finite_are_no_drift(make: Callable[..., CorllLearner]) -> None:
    outcome = update(make(lr=1e30), EDITS[0])
    assert outcome.pairs[0].reason is RejectReason.NON_FINITE
    assert outcome.pairs[0].margin == 0.0
    assert outcome.adapter is None


def test_a_rejected_step_leaves_the_very_adapter_and_every_bit_on_the_device(
    make: Callable[..., CorllLearner],
) -> None:
    adapter = update(make(), *EDITS).adapter
    learner = make(GuardSettings(max_drift_nats=1e-9))
    refused = update(learner, *EDITS, adapter=adapter)
    assert refused.adapter is adapter
    assert not refused.trained
    assert {pair.reason for pair in refused.pairs} == {RejectReason.DRIFT}
    assert all(pair.margin is not None for pair in refused.pairs)
    # The copy on the device is used again as it is: it must be what was given.
    learner._runner._guard = GuardSettings(max_drift_nats=1e9)
    assert same_bits(update(learner, *EDITS, adapter=adapter).adapter, update(make(), *EDITS, adapter=adapter).adapter)


def test_an_edit_that_repeats_itself_far_more_than_the_draft_is_not_learnt(make: Callable[..., CorllLearner]) -> None:
    pasted = event("see you on friday", "buy now " * 10)  # .9 of its words are repeated
    outcome = update(make(), pasted, EDITS[1])
    assert [(pair.status, pair.reason) for pair in outcome.pairs] == [
        (PairStatus.REJECTED, RejectReason.REPETITIVE),
        (PairStatus.APPLIED, None),
    ]
    assert same_bits(outcome.adapter, update(make(), EDITS[1]).adapter)


def test_an_edit_may_repeat_itself_as_much_as_the_setting_allows(make: Callable[..., CorllLearner]) -> None:
    twice = event("see you on friday", "see you at the gate see you at the gate")  # from none to half
    reasons = [
        update(make(GuardSettings(max_repetition_rise=rise)), twice).pairs[0].reason for rise in (0.49, 0.5, 1.0)
    ]
    assert reasons == [RejectReason.REPETITIVE, None, None]


def test_a_few_words_may_repeat_themselves(make: Callable[..., CorllLearner]) -> None:
    outcome = update(make(), event("hello", "bye bye bye bye bye bye bye bye bye"))
    assert outcome.pairs[0].status is PairStatus.APPLIED


def test_a_draft_that_repeats_itself_may_be_mended_or_accepted(make: Callable[..., CorllLearner]) -> None:
    spam = "buy now " * 10
    outcome = update(make(), event(spam, "see you on friday"), event(spam, spam), event(spam, "buy " + spam))
    assert [pair.status for pair in outcome.pairs] == [PairStatus.APPLIED, PairStatus.ACCEPTANCE, PairStatus.APPLIED]


def test_only_the_pair_that_drifts_too_far_alone_is_guilty(make: Callable[..., CorllLearner]) -> None:
    drifts = []
    for edit in EDITS[:2]:
        outcome = update(make(pairs_per_step=2), edit)
        assert outcome.drift_nats is not None
        drifts.append(outcome.drift_nats)
    assert drifts[0] != pytest.approx(drifts[1], rel=0.1)
    guilty = drifts.index(max(drifts))
    both = update(make(pairs_per_step=2), *EDITS[:2])
    assert both.drift_nats is not None
    limit = (sum(drifts) / 2 + min(drifts)) / 2
    assert both.drift_nats > limit  # so that the step of both fails first
    order = (EDITS[guilty], EDITS[1 - guilty])
    outcome = update(make(GuardSettings(max_drift_nats=limit), pairs_per_step=2), *order)
    assert [pair.reason for pair in outcome.pairs] == [RejectReason.DRIFT, None]
    # The innocent one was trained as if the guilty one had never been there.
    assert same_bits(outcome.adapter, update(make(pairs_per_step=2), EDITS[1 - guilty]).adapter)


def test_a_pair_that_was_applied_stays_applied_when_a_later_pass_over_it_fails(
    make: Callable[..., CorllLearner],
) -> None:
    learner = make(GuardSettings(max_drift_nats=1e-9, every_steps=2), steps_per_batch=3)
    outcome = update(learner, EDITS[0])  # step 1 is not measured, step 2 is, and fails; there is no third
    assert outcome.pairs[0].status is PairStatus.APPLIED
    assert outcome.steps == 1
    assert outcome.adapter is not None
    assert outcome.adapter.optimizer_step == 1


def test_a_guilty_pair_is_not_tried_again_in_later_passes(
    make: Callable[..., CorllLearner], resident: ResidentModel
) -> None:
    passes = []
    handle = resident.model.base_model.register_forward_pre_hook(lambda *_: passes.append(1))
    update(make(GuardSettings(max_drift_nats=1e-9), steps_per_batch=5), EDITS[0])
    handle.remove()
    assert len(passes) == 2  # scored and trained, and its drift
