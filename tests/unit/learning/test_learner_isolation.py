"""Users in one call: an update changes the tensors of the users in its step, and nothing else (I4)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from corlld.adapters.layout import AdapterTensors
from corlld.errors import RejectReason
from corlld.learning.learner import CorllLearner
from corlld.learning.model.resident import ResidentModel
from corlld.learning.slots import SlotArena
from corlld.records import PairStatus, TrainingBatch, UpdateOutcome
from corlld.settings.sections import GuardSettings, LearningSettings
from tests.support.learning import EDITS, bits, event, neighbours, same_bits, tokens_of_pair, update, weights
from tests.support.tiny_models import make_tiny_model, tiny_resident


def test_i4_an_update_changes_no_bit_of_other_users_or_of_the_base_model(
    make: Callable[..., CorllLearner], resident: ResidentModel
) -> None:
    learner = make(slots=3)
    uids = ("ann", "bob", "cy")
    first = {o.uid: o.adapter for o in learner.update([TrainingBatch(uid, None, EDITS) for uid in uids])}
    base = {name: tensor.clone() for name, tensor in resident.model.state_dict().items()}
    before = {uid: bits(adapter) for uid, adapter in first.items()}

    adapter = first["bob"]
    for _ in range(100):
        adapter = update(learner, EDITS[1], uid="bob", adapter=adapter).adapter
    assert isinstance(adapter, AdapterTensors)
    assert adapter.optimizer_step == 101
    # What was given is never written to, not even bob's own.
    for uid in uids:
        assert all(torch.equal(a, b) for a, b in zip(bits(first[uid]), before[uid], strict=True))
    assert not same_bits(adapter, first["bob"])
    for name, tensor in resident.model.state_dict().items():
        assert torch.equal(tensor, base[name])
    # Nor what still lies on the device: ann goes on as on a learner that never saw bob.
    if isinstance(learner._slots, SlotArena):
        place = learner._slots._users["cy"].tensors
        assert all(torch.equal(a.view(torch.int32), b) for a, b in zip(place, bits(first["cy"]), strict=True))
    assert same_bits(
        update(learner, EDITS[2], uid="ann", adapter=first["ann"]).adapter,
        update(make(), EDITS[2], uid="ann", adapter=first["ann"]).adapter,
    )


def test_users_in_one_call_are_trained_as_if_each_were_alone(make: Callable[..., CorllLearner]) -> None:
    together = make().update([TrainingBatch("ann", None, EDITS), TrainingBatch("bob", None, EDITS[:0:-1])])
    alone = [update(make(), *EDITS, uid="ann"), update(make(), *EDITS[:0:-1], uid="bob")]
    assert [outcome.uid for outcome in together] == ["ann", "bob"]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(weights(one), weights(other), rtol=1e-4, atol=1e-5)
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert [pair.margin for pair in one.pairs] == pytest.approx([pair.margin for pair in other.pairs], abs=1e-4)


def test_more_users_than_slots_are_trained_all_the_same(make: Callable[..., CorllLearner]) -> None:
    uids = ("ann", "bob", "cy", "dan", "eve")
    outcomes = make(slots=2).update([TrainingBatch(uid, None, EDITS) for uid in uids])
    for outcome in outcomes:
        expected = update(make(), *EDITS, uid=outcome.uid)
        torch.testing.assert_close(weights(outcome), weights(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("call", ["update", "score"])
def test_two_batches_of_one_user_in_one_call_are_refused(make: Callable[..., CorllLearner], call: str) -> None:
    with pytest.raises(ValueError, match="more than one batch"):
        getattr(make(), call)([TrainingBatch("ann", None, EDITS), TrainingBatch("ann", None, EDITS)])


def assert_unharmed(learner: CorllLearner, outcomes: Sequence[UpdateOutcome]) -> None:
    """Ann and cy have what a call without bob gives them."""
    expected = learner.update([TrainingBatch(uid, None, EDITS[:2]) for uid in ("ann", "cy")])
    for outcome, alone in zip((outcomes[0], outcomes[2]), expected, strict=True):
        assert {pair.status for pair in outcome.pairs} == {PairStatus.APPLIED}
        assert outcome.steps == alone.steps == 1
        torch.testing.assert_close(weights(outcome), weights(alone), rtol=1e-4, atol=1e-5)
        assert [pair.margin for pair in outcome.pairs] == pytest.approx([pair.margin for pair in alone.pairs], abs=1e-4)


def test_a_pair_that_is_not_finite_harms_no_other_user_of_the_call(tmp_path: Path) -> None:
    resident = tiny_resident(make_tiny_model(tmp_path, "llama"))
    (token,) = resident.tokenizer("~", add_special_tokens=False)["input_ids"]
    resident.model.get_input_embeddings().weight[token] = float("nan")

    def learner() -> CorllLearner:
        return CorllLearner(resident, LearningSettings(lr=1e-2), GuardSettings(max_drift_nats=1e9), 4)

    outcomes = neighbours(learner(), event("see ~ then", "see ~ now"), EDITS[2])
    assert [pair.reason for pair in outcomes[1].pairs] == [RejectReason.NON_FINITE, None]
    assert_unharmed(learner(), outcomes)


def test_moments_that_overflow_harm_no_other_user_of_the_call(make: Callable[..., CorllLearner]) -> None:
    fine = update(make(), *EDITS, uid="bob").adapter
    assert isinstance(fine, AdapterTensors)
    adapter = AdapterTensors(fine.weights, torch.full_like(fine.exp_avg, 3e38), fine.exp_avg_sq, fine.optimizer_step)
    outcomes = neighbours(make(), EDITS[2], adapter=adapter)
    assert outcomes[1].pairs[0].reason is RejectReason.NON_FINITE
    assert outcomes[1].adapter is adapter
    assert_unharmed(make(), outcomes)


def test_a_step_that_drifts_too_far_harms_no_other_user_of_the_call(make: Callable[..., CorllLearner]) -> None:
    drifts = [outcome.drift_nats or 0.0 for outcome in neighbours(make(), *EDITS[2:])]
    limit = GuardSettings(max_drift_nats=(drifts[0] + drifts[2]) / 2 * 1.5)
    # Far along already, bob moves further than the others.
    adapter = update(make(lr=0.5), *EDITS, uid="bob").adapter
    outcomes = neighbours(make(limit), *EDITS[2:], adapter=adapter)
    assert {pair.reason for pair in outcomes[1].pairs} == {RejectReason.DRIFT}
    assert outcomes[1].adapter is adapter
    assert_unharmed(make(), outcomes)


def test_a_pair_that_is_too_long_or_does_not_fit_harms_no_other_user_of_the_call(
    make: Callable[..., CorllLearner], resident: ResidentModel, small_device: list[int]
) -> None:
    large, long = event("a" * 60, "b" * 60), event("a" * 200, "b")
    small_device.append(tokens_of_pair(resident, large) - 1)
    assert sum(tokens_of_pair(resident, edit) for edit in EDITS[:2]) < small_device[-1]
    outcomes = neighbours(make(max_response_tokens=100), large, EDITS[2], long)
    reasons = [RejectReason.OUT_OF_MEMORY, None, RejectReason.TOO_LONG]
    assert [pair.reason for pair in outcomes[1].pairs] == reasons
    assert_unharmed(make(), outcomes)
