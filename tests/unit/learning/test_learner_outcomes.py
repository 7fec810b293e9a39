"""Outcomes of updates, and scores: what they report of each event."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corlld.errors import RejectReason
from corlld.learning.learner import CorllLearner
from corlld.learning.model.pairs import PreferencePair
from corlld.learning.model.resident import ResidentModel
from corlld.records import Message, PairOutcome, PairStatus, TrainingBatch
from corlld.settings.sections import GuardSettings, LearningSettings
from tests.support.learning import EDITS, bits, event, same_bits, update, weights
from tests.support.tiny_models import make_tiny_model, tiny_resident


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


@pytest.mark.parametrize("margin", ["tail", "changed"])
def test_the_rise_is_of_the_edited_tail_per_token_before_it_is_learnt_from(
    make: Callable[..., CorllLearner], margin: str
) -> None:
    learner = make(margin=margin, pairs_per_step=2)
    first = update(learner, *EDITS)
    assert [pair.edited_rise for pair in first.pairs[:2]] == [0.0, 0.0]  # by the base model itself
    (scores,) = learner.score([TrainingBatch("ann", first.adapter, EDITS)])
    second = update(learner, *EDITS, adapter=first.adapter)
    for score, pair in zip(scores[:2], second.pairs, strict=False):
        assert score is not None
        rise = (score.policy.chosen - score.base.chosen) / score.edited_tokens
        assert pair.edited_rise == pytest.approx(rise, abs=1e-5)
        assert abs(rise) > 0.001


def test_margins_and_changes_are_reported_over_the_tails_whatever_the_rule_compares(
    make: Callable[..., CorllLearner],
) -> None:
    adapter = update(make(), *EDITS).adapter
    tail, changed = (update(make(margin=margin), *EDITS, adapter=adapter) for margin in ("tail", "changed"))
    for ours, theirs in zip(tail.pairs, changed.pairs, strict=True):
        assert (ours.margin, ours.base_margin, ours.edited_rise) == (
            theirs.margin,
            theirs.base_margin,
            theirs.edited_rise,
        )
    assert tail.loss != changed.loss
    assert not same_bits(tail.adapter, changed.adapter)


def test_edits_that_leave_no_token_as_it_was_are_learnt_from_alike_to_the_bit(
    make: Callable[..., CorllLearner],
) -> None:
    # Without an end token nothing is equal in these tails.
    events = [replace(event("abcab", "xyzz"), truncated=True), replace(event("so", "nnnn"), truncated=True)]
    tail, changed = (
        update(make(margin=tokens, imitation_tokens=tokens, imitation_weight=0.1, anchor=0.1), *events)
        for tokens in ("tail", "changed")
    )
    assert tail.loss == changed.loss
    assert same_bits(tail.adapter, changed.adapter)


def test_saturation_is_judged_by_the_margin_that_the_rule_weighs(make: Callable[..., CorllLearner]) -> None:
    """Two texts that differ in one word in front: the rest of the tails is margin by one rule alone."""
    edit, adapter = event("one two three four", "ten two three four"), None
    for _ in range(5):
        adapter = update(make(), edit, adapter=adapter).adapter
    (pair,) = update(make(), edit, adapter=adapter).pairs
    assert pair.margin is not None
    shares = [
        update(make(margin=m, beta=b), edit, adapter=adapter).saturated_share
        for m, b in [("tail", math.log(9) / pair.margin * 1.01), ("changed", math.log(9) / pair.margin * 1.01)]
    ]
    assert shares == [1.0, 0.0]


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


def test_messages_are_learnt_from_where_the_model_has_a_chat_template(tmp_path: Path) -> None:
    resident = tiny_resident(make_tiny_model(tmp_path, "llama", chat_template=True))
    assert resident.info.supports_messages
    learner = CorllLearner(resident, LearningSettings(), GuardSettings(), 1)
    chat = replace(EDITS[0], prompt=None, messages=(Message("user", "When?"),))
    refused = replace(chat, messages=(Message("oracle", "?"),))
    outcome = update(learner, chat, refused)
    assert outcome.trained
    assert [pair.reason for pair in outcome.pairs] == [None, RejectReason.UNRENDERABLE]


def test_the_setting_decides_what_a_control_token_in_a_prompt_is(make: Callable[..., CorllLearner]) -> None:
    engines, plain = (make(prompt_special_tokens=setting) for setting in (True, False))
    for learner in (engines, plain):
        assert update(learner, event("see you", "see them", prompt="Dear all,</s> ")).trained
    assert plain.tokens.computed > engines.tokens.computed  # four characters in place of a token
