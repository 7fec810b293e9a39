import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from corlld.adapters.layout import AdapterTensors
from corlld.errors import RejectReason
from corlld.learning import learner as learner_module
from corlld.learning import steps
from corlld.learning.learner import CorllLearner, row_tokens
from corlld.learning.model.packing import Item
from corlld.learning.model.pairs import PreferencePair
from corlld.learning.model.resident import ResidentModel
from corlld.learning.model.stacked_lora import StackedAdapters, StackedLora
from corlld.learning.optimizer import adamw_step_
from corlld.learning.slots import SlotArena
from corlld.learning.steps import StepRunner
from corlld.records import EditEvent, Message, PairOutcome, PairStatus, TrainingBatch, UpdateOutcome
from corlld.settings.sections import GuardSettings, LearningSettings
from tests.support.tiny_models import make_tiny_model, tiny_resident

TEXTS = (
    ("see you on friday", "see you on monday"),
    ("the meeting is at ten", "the meeting begins at ten"),
    ("kind regards", "best wishes"),
    ("one and two", "one or two"),
)


def event(proposed: str, edited: str, **fields: Any) -> EditEvent:
    plain = EditEvent("e", "u", datetime(2026, 1, 1, tzinfo=UTC), "Dear all, ", None, proposed, edited)
    return replace(plain, **fields)


EDITS = tuple(event(*texts) for texts in TEXTS)


@pytest.fixture(scope="module")
def resident(tmp_path_factory: pytest.TempPathFactory) -> ResidentModel:
    return tiny_resident(make_tiny_model(tmp_path_factory.mktemp("model"), "gemma3"))


@pytest.fixture(params=["host-slots", "arena"])
def make(
    resident: ResidentModel, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., CorllLearner]:
    if request.param == "arena":  # as on a device of its own
        monkeypatch.setattr(learner_module, "make_slots", SlotArena)

    def learner(guard: GuardSettings | None = None, slots: int = 4, **rule: Any) -> CorllLearner:
        settings = LearningSettings(**{"lr": 1e-2, "rehearsal_weight": 0.0} | rule)
        return CorllLearner(resident, settings, guard or GuardSettings(max_drift_nats=1e9), slots)

    return learner


def update(learner: CorllLearner, *events: EditEvent, uid: str = "ann", adapter: Any = None) -> UpdateOutcome:
    (outcome,) = learner.update([TrainingBatch(uid, adapter, events)])
    return outcome


def weights(outcome: UpdateOutcome) -> torch.Tensor:
    assert isinstance(outcome.adapter, AdapterTensors)
    return outcome.adapter.weights


def bits(adapter: Any) -> list[torch.Tensor]:
    return [t.clone().view(torch.int32) for t in (adapter.weights, adapter.exp_avg, adapter.exp_avg_sq)]


def same_bits(left: Any, right: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(bits(left), bits(right), strict=True))


# What adapters make of events, learning nothing


def test_scores_are_those_of_the_next_update_and_nothing_is_learnt(make: Callable[..., CorllLearner]) -> None:
    learner = make(slots=2)  # fewer than there are users
    adapters = {uid: update(learner, EDITS[place], uid=uid).adapter for place, uid in enumerate(("ann", "ben"))}
    batches = [TrainingBatch(uid, adapter, EDITS[1:3]) for uid, adapter in adapters.items()]
    before = [bits(batch.adapter) for batch in batches]
    scores = learner.score([*batches, TrainingBatch("cleo", None, (event("same", "same"), event("to", "too")))])
    for batch, own, kept in zip(batches, scores, before, strict=False):
        assert all(torch.equal(a, b) for a, b in zip(bits(batch.adapter), kept, strict=True))
        (outcome,) = learner.update([batch])
        assert [score and score.margin for score in own] == pytest.approx([p.margin for p in outcome.pairs], abs=1e-4)
    accepted, fresh = scores[2]
    assert accepted is not None
    assert fresh is not None
    assert accepted.policy[1] == accepted.base[1] == 0  # of an acceptance the text alone is scored
    assert accepted.policy[0] < 0
    assert fresh.margin == pytest.approx(0, abs=1e-5)  # a user without an adapter is the base model
    assert learner.score([TrainingBatch("ann", None, (event("x" * 9999, "y"),))]) == [[None]]


# What an update says


def test_repeated_edits_raise_the_margin_and_the_likelihood_that_the_edit_gains(
    make: Callable[..., CorllLearner],
) -> None:
    learner, adapter = make(), None
    margins: list[float] = []
    for _ in range(6):
        outcome = update(learner, EDITS[0], adapter=adapter)
        adapter = outcome.adapter
        margins.append(outcome.pairs[0].margin or 0.0)
    assert margins == sorted(margins)
    assert margins[-1] > 1.0
    assert adapter is not None
    assert adapter.optimizer_step == 6


def test_a_users_very_first_pair_has_margin_exactly_zero_and_counts_as_scored_by_no_trained_adapter(
    make: Callable[..., CorllLearner],
) -> None:
    first = update(make(pairs_per_step=4), *EDITS)
    assert [pair.margin for pair in first.pairs] == [0.0] * 4
    assert not any(pair.scored_by_trained for pair in first.pairs)
    # With steps of one pair, the second pair is scored by an adapter that took a step.
    second = update(make(pairs_per_step=1), *EDITS)
    assert [pair.scored_by_trained for pair in second.pairs] == [False, True, True, True]
    assert second.pairs[0].margin == 0.0
    assert all(pair.margin != 0.0 for pair in second.pairs[1:])


def test_exchanging_proposed_and_edited_negates_the_base_models_preference(make: Callable[..., CorllLearner]) -> None:
    forth = update(make(), *EDITS).pairs
    back = update(make(), *(event(e.edited, e.proposed) for e in EDITS)).pairs
    for there, here in zip(forth, back, strict=True):
        assert there.base_margin is not None
        assert here.base_margin is not None
        assert there.base_margin == pytest.approx(-here.base_margin, abs=1e-4)
        assert abs(there.base_margin) > 0.01


def test_every_event_has_its_outcome_in_order(make: Callable[..., CorllLearner]) -> None:
    events = (
        event("same", "same"),
        EDITS[0],
        event("caf\u00e9", "cafe\u0301"),
        event("a" * 200, "b"),
        EDITS[1],
    )
    pairs = update(make(max_response_tokens=100), *events).pairs
    assert [pair.status for pair in pairs] == [
        PairStatus.ACCEPTANCE,
        PairStatus.APPLIED,
        PairStatus.NO_DIFFERENCE,
        PairStatus.REJECTED,
        PairStatus.APPLIED,
    ]
    assert pairs[3].reason is RejectReason.TOO_LONG
    for untouched in (pairs[0], pairs[2], pairs[3]):
        assert untouched.margin is None
        assert untouched.delta_chosen_logp is None


def test_a_batch_without_a_pair_leaves_the_very_adapter_that_was_given(make: Callable[..., CorllLearner]) -> None:
    learner = make(acceptance_weight=0.0)
    adapter = update(learner, *EDITS).adapter
    for given in (None, adapter):
        outcome = update(learner, event("same", "same"), adapter=given)
        assert outcome.adapter is given
        assert not outcome.trained
        assert outcome.steps == 0


def test_steps_have_at_most_pairs_per_step_pairs_and_are_repeated_steps_per_batch_times(
    make: Callable[..., CorllLearner],
) -> None:
    assert update(make(pairs_per_step=3), *EDITS).steps == 2
    outcome = update(make(pairs_per_step=4, steps_per_batch=3), *EDITS)
    assert outcome.steps == 3
    # Prequential figures are from before the first pass.
    assert [pair.margin for pair in outcome.pairs] == [0.0] * 4


def test_drift_and_the_change_of_the_edits_log_probability_are_what_plain_rows_say(
    make: Callable[..., CorllLearner], resident: ResidentModel
) -> None:
    learner = make()
    outcome = update(learner, *EDITS)

    def logps(flat: torch.Tensor | None, response: str) -> torch.Tensor:
        context = resident.tokenizer("Dear all, ")["input_ids"]
        answer = resident.tokenizer(response, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[*context, *answer, resident.tokenizer.eos_token_id]])
        adapters = None if flat is None else resident.lora.stack(flat[None])
        with torch.no_grad(), resident.lora.bind(adapters, [ids.numel()]):
            logits = resident.model(input_ids=ids).logits[0, len(context) - 1 : -1].log_softmax(-1)
        tokens: torch.Tensor = logits.gather(1, ids[0, len(context) :, None])[:, 0]
        return tokens

    changes: list[torch.Tensor] = []
    for edit, pair in zip(EDITS, outcome.pairs, strict=True):
        chosen, rejected = (logps(weights(outcome), t) - logps(None, t) for t in (edit.edited, edit.proposed))
        encoded = learner._encoder.encode(edit)
        assert isinstance(encoded, PreferencePair)
        tails = chosen[-len(encoded.chosen) :], rejected[-len(encoded.rejected) :]
        assert pair.delta_chosen_logp == pytest.approx(float(tails[0].sum()), abs=1e-4)
        changes += tails
    assert outcome.drift_nats == pytest.approx(float(torch.cat(changes).abs().mean()), abs=1e-5)
    assert outcome.drift_nats is not None
    assert outcome.drift_nats > 0.01


def test_a_step_whose_drift_is_not_due_has_none(make: Callable[..., CorllLearner]) -> None:
    unmeasured = update(make(GuardSettings(every_steps=2)), EDITS[0])
    assert unmeasured.pairs[0].delta_chosen_logp is None
    assert unmeasured.drift_nats is None


def test_reference_previous_reports_margins_against_the_base_model_all_the_same(
    make: Callable[..., CorllLearner],
) -> None:
    adapter = update(make(), *EDITS).adapter
    base, previous = (
        update(make(reference=reference), *EDITS, adapter=adapter).pairs for reference in ("base", "previous")
    )
    assert [pair.margin for pair in base] == [pair.margin for pair in previous]
    assert all(pair.margin != 0 for pair in previous)


def test_reference_previous_with_one_adam_step_a_batch_makes_beta_irrelevant(
    make: Callable[..., CorllLearner],
) -> None:
    low, high = (
        update(make(reference="previous", beta=beta, max_gradient_norm=1e9, adam_eps=1e-30), *EDITS)
        for beta in (0.01, 1.0)
    )
    torch.testing.assert_close(weights(low), weights(high), rtol=1e-3, atol=1e-5)


def test_the_saturated_share_counts_margins_whose_gradient_has_vanished(make: Callable[..., CorllLearner]) -> None:
    adapter = None
    for _ in range(5):
        adapter = update(make(), EDITS[0], adapter=adapter).adapter
    margin = update(make(), EDITS[0], adapter=adapter).pairs[0].margin
    assert margin is not None
    limit = math.log(9) / margin  # sigma(-beta h) is 1/10 at this beta
    shares = [update(make(beta=limit * f), EDITS[0], adapter=adapter).saturated_share for f in (0.99, 1.01)]
    assert shares == [0.0, 1.0]


def test_an_update_is_deterministic(make: Callable[..., CorllLearner]) -> None:
    assert same_bits(update(make(), *EDITS).adapter, update(make(), *EDITS).adapter)


# Acceptances


def test_an_acceptance_gains_likelihood_by_its_weight_and_changes_nothing_without_one(
    make: Callable[..., CorllLearner], resident: ResidentModel
) -> None:
    accepted = event("best wishes", "best wishes")
    assert not update(make(acceptance_weight=0.0), accepted).trained

    learner = make(acceptance_weight=0.5)
    outcome = update(learner, accepted)
    assert outcome.trained
    assert outcome.pairs == (PairOutcome(PairStatus.ACCEPTANCE),)
    again = update(learner, accepted, adapter=outcome.adapter)
    assert outcome.loss is not None
    assert again.loss is not None
    assert again.loss < outcome.loss
    # -c log pi(y), the mean over the step's one event: y by its own tokens after the prompt's.
    ids = resident.tokenizer("Dear all, ")["input_ids"]
    answer = resident.tokenizer("best wishes", add_special_tokens=False)["input_ids"] + [
        resident.tokenizer.eos_token_id
    ]
    logits = resident.model(input_ids=torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
    logp = logits.gather(1, torch.tensor(answer)[:, None]).sum()
    assert outcome.loss == pytest.approx(-0.5 * float(logp), rel=1e-5)


def test_acceptances_and_pairs_share_a_step_and_its_mean(make: Callable[..., CorllLearner]) -> None:
    accepted = event("best wishes", "best wishes")
    alone = update(make(acceptance_weight=0.5), accepted).loss
    pair = update(make(acceptance_weight=0.5), EDITS[0]).loss
    together = update(make(acceptance_weight=0.5), accepted, EDITS[0]).loss
    assert alone is not None
    assert pair is not None
    assert together == pytest.approx((alone + pair) / 2, rel=1e-5)


# I4: an update changes the tensors of the users in its step, and nothing else


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


def test_users_of_one_call_whose_pairs_fit_in_a_row_go_through_the_model_together(
    make: Callable[..., CorllLearner], resident: ResidentModel
) -> None:
    rows: list[int] = []
    own = make_row_tokens(resident)
    batches = [TrainingBatch(uid, None, EDITS) for uid in ("ann", "bob", "cy")]
    handle = resident.model.base_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: rows.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        make(max_row_tokens=3 * own).update(batches)
        # Trained and measured; the first step's reference is the model itself.
        assert rows == [3 * own] * 2
        rows.clear()
        make(max_row_tokens=3 * own - 1).update(batches)
        assert rows == [2 * own] * 2 + [own] * 2
    finally:
        handle.remove()


def make_row_tokens(resident: ResidentModel) -> int:
    learner = CorllLearner(resident, LearningSettings(rehearsal_weight=0.0), GuardSettings(), 1)
    pairs = [learner._encoder.encode(edit) for edit in EDITS]
    items = [Item(0, pair) for pair in pairs if isinstance(pair, PreferencePair)]
    return resident.collator.row(items, range(len(items)), users=1).tokens


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


# The guard


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


# Memory


@pytest.fixture
def small_device(resident: ResidentModel) -> Iterator[list[int]]:
    """The model runs out of memory on rows of more tokens than the list's last number."""
    limit = [10**9]

    def refuse(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].numel() > limit[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = resident.model.base_model.register_forward_pre_hook(refuse, with_kwargs=True)
    yield limit
    handle.remove()


def tokens_of(resident: ResidentModel, edit: EditEvent) -> int:
    learner = CorllLearner(resident, LearningSettings(), GuardSettings(), 1)
    pair = learner._encoder.encode(edit)
    assert isinstance(pair, PreferencePair)
    return pair.tokens


def test_a_row_that_does_not_fit_is_split_and_the_step_stays_the_same(
    make: Callable[..., CorllLearner], resident: ResidentModel, small_device: list[int]
) -> None:
    whole = update(make(), *EDITS)
    small_device.append(max(tokens_of(resident, edit) for edit in EDITS))
    split = update(make(), *EDITS)
    assert split.steps == whole.steps == 1
    torch.testing.assert_close(weights(split), weights(whole), rtol=1e-3, atol=1e-4)


def test_a_single_pair_that_does_not_fit_is_rejected_alone(
    make: Callable[..., CorllLearner], resident: ResidentModel, small_device: list[int]
) -> None:
    sizes = [tokens_of(resident, edit) for edit in EDITS]
    small_device.append(max(sizes) - 1)
    outcome = update(make(), *EDITS)
    expected = [RejectReason.OUT_OF_MEMORY if size == max(sizes) else None for size in sizes]
    assert [pair.reason for pair in outcome.pairs] == expected
    assert expected.count(None) == 3


def test_pairs_behind_one_that_does_not_fit_are_held_to_the_reference_as_the_batch_began(
    make: Callable[..., CorllLearner], resident: ResidentModel, small_device: list[int]
) -> None:
    small, *others, largest = sorted(EDITS, key=lambda edit: tokens_of(resident, edit))
    for reference in ("base", "previous"):
        # Steps of one pair at a quarter of the rate, as the pairs are tried one by one.
        small_device.append(10**9)
        expected = update(make(reference=reference, pairs_per_step=1, lr=1e-2 / 4), small, *others)
        small_device.append(tokens_of(resident, largest) - 1)
        outcome = update(make(reference=reference, pairs_per_step=4), small, largest, *others)
        assert [pair.reason for pair in outcome.pairs] == [None, RejectReason.OUT_OF_MEMORY, None, None]
        margins = [pair.margin for pair in outcome.pairs if pair.margin is not None]
        assert margins == pytest.approx([pair.margin for pair in expected.pairs], abs=1e-4)
        torch.testing.assert_close(weights(outcome), weights(expected), rtol=1e-4, atol=1e-5)


# Several users in one call: what one of them brings is that user's alone


def neighbours(learner: CorllLearner, *events: EditEvent, adapter: Any = None) -> list[UpdateOutcome]:
    """Bob's events between ann's and cy's edits."""
    batches = [TrainingBatch(uid, None, EDITS[:2]) for uid in ("ann", "bob", "cy")]
    batches[1] = TrainingBatch("bob", adapter, events)
    return learner.update(batches)


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
    small_device.append(tokens_of(resident, large) - 1)
    assert sum(tokens_of(resident, edit) for edit in EDITS[:2]) < small_device[-1]
    outcomes = neighbours(make(max_response_tokens=100), large, EDITS[2], long)
    reasons = [RejectReason.OUT_OF_MEMORY, None, RejectReason.TOO_LONG]
    assert [pair.reason for pair in outcomes[1].pairs] == reasons
    assert_unharmed(make(), outcomes)


@pytest.mark.parametrize("reference", ["base", "previous"])
def test_a_device_with_room_for_one_users_tensors_trains_all_of_them(
    make: Callable[..., CorllLearner], monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    rule = {"reference": reference, "pairs_per_step": 1}
    expected = neighbours(make(**rule), *EDITS)
    refused = []
    new_empty = torch.Tensor.new_empty

    def small(tensor: torch.Tensor, *shape: Any, **options: Any) -> torch.Tensor:
        if shape[1:] == (size,) and shape[0] > 1:
            refused.append(shape)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return new_empty(tensor, *shape, **options)

    size = weights(expected[0]).numel()
    monkeypatch.setattr(torch.Tensor, "new_empty", small)
    outcomes = neighbours(make(**rule), *EDITS)
    assert refused
    for outcome, whole in zip(outcomes, expected, strict=True):
        assert {pair.status for pair in outcome.pairs} == {PairStatus.APPLIED}
        torch.testing.assert_close(weights(outcome), weights(whole), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("room", "reason"), [(1, None), (0, RejectReason.OUT_OF_MEMORY)])
def test_an_optimizer_step_without_room_is_taken_by_fewer_users(
    make: Callable[..., CorllLearner], monkeypatch: pytest.MonkeyPatch, room: int, reason: RejectReason | None
) -> None:
    def small(weights: torch.Tensor, *rest: Any, **options: Any) -> None:
        if len(weights) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        adamw_step_(weights, *rest, **options)

    monkeypatch.setattr(steps, "adamw_step_", small)
    for outcome in make().update([TrainingBatch(uid, None, EDITS) for uid in ("ann", "bob", "cy")]):
        assert {pair.reason for pair in outcome.pairs} == {reason}
        assert outcome.trained == (reason is None)


def test_a_drift_that_can_only_be_measured_for_fewer_users_is(
    make: Callable[..., CorllLearner], resident: ResidentModel
) -> None:
    own = make_row_tokens(resident)

    def refuse(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if not torch.is_grad_enabled() and kwargs["input_ids"].numel() > own:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = resident.model.base_model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        outcomes = make().update([TrainingBatch(uid, None, EDITS) for uid in ("ann", "bob")])
    finally:
        handle.remove()
    for outcome in outcomes:
        assert outcome.steps == 1
        assert outcome.drift_nats is not None


def test_a_smaller_group_is_not_left_with_the_memory_of_the_one_that_did_not_fit(
    make: Callable[..., CorllLearner], resident: ResidentModel, small_device: list[int]
) -> None:
    learner, gathered = make(), []
    handle = resident.model.base_model.register_forward_pre_hook(
        lambda *_: gathered.append(len(learner._slots._work.tensors[0]))
    )
    small_device.append(make_row_tokens(resident))
    try:
        outcomes = learner.update([TrainingBatch(uid, None, EDITS) for uid in ("ann", "bob")])
    finally:
        handle.remove()
    assert all(outcome.steps == 1 for outcome in outcomes)
    assert gathered == [1, 1] * 2  # trained and measured


@pytest.mark.parametrize("users", [1, 2])
@pytest.mark.parametrize("failing", range(5))
def test_a_device_without_room_for_stacked_factors_ends_the_part_that_needs_them_and_nothing_else(
    make: Callable[..., CorllLearner], monkeypatch: pytest.MonkeyPatch, users: int, failing: int
) -> None:
    """Stacked in turn for the reference, and for step and drift of two steps."""
    stack, calls = StackedLora.stack, itertools.count()

    def small(*arguments: Any) -> StackedAdapters:
        if next(calls) == failing:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stack(*arguments)

    monkeypatch.setattr(StackedLora, "stack", small)
    learner = make(reference="previous", pairs_per_step=2)
    outcomes = learner.update([TrainingBatch(uid, None, EDITS) for uid in ("ann", "bob")[:users]])
    assert next(calls) > failing
    # What fails for several is tried for each alone, and a step of several pairs for each pair.
    unscored = RejectReason.OUT_OF_MEMORY if (users, failing) == (1, 0) else None
    for outcome in outcomes:
        assert [pair.reason for pair in outcome.pairs] == [None, None, unscored, unscored]


def test_an_error_that_is_not_about_memory_is_raised(
    make: Callable[..., CorllLearner], resident: ResidentModel
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    handle = resident.model.base_model.register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="a bug"):
            update(make(), *EDITS)
    finally:
        handle.remove()


def test_messages_are_learnt_from_where_the_model_has_a_chat_template(tmp_path: Path) -> None:
    resident = tiny_resident(make_tiny_model(tmp_path, "llama", chat_template=True))
    assert resident.info.supports_messages
    learner = CorllLearner(resident, LearningSettings(), GuardSettings(), 1)
    chat = replace(EDITS[0], prompt=None, messages=(Message("user", "When?"),))
    refused = replace(chat, messages=(Message("oracle", "?"),))
    outcome = update(learner, chat, refused)
    assert outcome.trained
    assert [pair.reason for pair in outcome.pairs] == [None, RejectReason.UNRENDERABLE]


def test_progress_grows_with_every_row_and_step_inside_an_update(
    make: Callable[..., CorllLearner], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make(pairs_per_step=1, max_row_tokens=64)
    seen: list[int] = []
    row_losses, take_step = StepRunner.row_losses, StepRunner.take_step
    monkeypatch.setattr(
        StepRunner, "row_losses", lambda *a, **k: (seen.append(learner.progress), row_losses(*a, **k))[1]
    )
    monkeypatch.setattr(StepRunner, "take_step", lambda *a, **k: (seen.append(learner.progress), take_step(*a, **k))[1])
    update(learner, *EDITS)
    seen.append(learner.progress)
    assert len(seen) == 2 * len(EDITS) + 1
    assert all(later > earlier for earlier, later in itertools.pairwise(seen))


def test_a_micro_batch_that_trains_nothing_is_progress_too(make: Callable[..., CorllLearner]) -> None:
    learner = make()
    before = learner.progress
    update(learner, event("as it is", "as it is"))
    assert learner.progress > before


def test_a_recurrent_model_learns_from_two_rows_a_pair(tmp_path: Path) -> None:
    resident = tiny_resident(make_tiny_model(tmp_path, "mamba"))
    assert not resident.collator.shares_prefixes
    learner = CorllLearner(resident, LearningSettings(lr=1e-2), GuardSettings(max_drift_nats=1e9), 2)
    first = learner.update([TrainingBatch(uid, None, EDITS) for uid in ("ann", "bob")])
    again = learner.update([TrainingBatch(o.uid, o.adapter, EDITS) for o in first])
    assert all((pair.margin or 0) > 0.1 for outcome in again for pair in outcome.pairs)
    computed, padding = learner.tokens
    assert 0 < padding < computed / 2


def test_users_are_shared_out_evenly_over_as_few_passes_as_there_must_be(
    make: Callable[..., CorllLearner], resident: ResidentModel
) -> None:
    size = tokens_of(resident, EDITS[0])
    rows: list[int] = []
    handle = resident.model.base_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: rows.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    learner = make(GuardSettings(every_steps=100), slots=7, max_row_tokens=3 * size)
    try:
        learner.update([TrainingBatch(f"user {number}", None, (EDITS[0],)) for number in range(7)])
    finally:
        handle.remove()
    assert sorted(rows) == [2 * size, 2 * size, 3 * size]  # not 3, 3 and what is left over


def test_references_are_scored_in_longer_rows_than_there_are_to_train_on(
    make: Callable[..., CorllLearner], resident: ResidentModel
) -> None:
    size = tokens_of(resident, EDITS[0])
    scored: list[int] = []
    trained: list[int] = []
    learner = make(GuardSettings(every_steps=100), slots=7, max_row_tokens=size)
    starts = learner.update([TrainingBatch(f"user {number}", None, (EDITS[0],)) for number in range(7)])
    handle = resident.model.base_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: (trained if torch.is_grad_enabled() else scored).append(
            kwargs["input_ids"].numel()
        ),
        with_kwargs=True,
    )
    try:
        learner.update([TrainingBatch(start.uid, start.adapter, (EDITS[0],)) for start in starts])
    finally:
        handle.remove()
    assert trained == [size] * 7
    assert sorted(scored) == [3 * size, 4 * size]


@pytest.mark.parametrize(("dtype", "tokens"), [(torch.float32, 896), (torch.bfloat16, 1792)])
def test_a_row_has_room_for_twice_as_many_tokens_of_half_the_size(dtype: torch.dtype, tokens: int) -> None:
    assert row_tokens(LearningSettings(), torch.device("cpu"), dtype) == tokens
    assert row_tokens(LearningSettings(max_row_tokens=7), torch.device("cpu"), dtype) == 7
