"""A user's last pairs: which are kept in the state, and what is trained again beside new ones."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corlld.adapters.layout import AdapterTensors
from corlld.durable import UserState
from corlld.learning.kept_pairs import last_pairs, pack_pairs, unpack_pairs
from corlld.learning.learner import CorllLearner
from corlld.learning.model.pairs import PreferencePair
from corlld.learning.model.resident import ResidentModel
from corlld.records import PairStatus, TrainingBatch, UpdateOutcome
from corlld.settings.sections import GuardSettings, LearningSettings
from corlld.state.snapshot import decode, encode
from tests.support.learning import EDITS, event, same_bits, tokens_of_pair, update
from tests.support.tiny_models import make_tiny_model, tiny_resident

IDS = st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple)
UID = "0123456789abcdef0123456789abcdef"


def kept(outcome: UpdateOutcome) -> list[PreferencePair]:
    assert isinstance(outcome.adapter, AdapterTensors)
    return list(unpack_pairs(outcome.adapter.kept))


def pairs_of(learner: CorllLearner, *edits: int) -> list[PreferencePair]:
    found = [learner._encoder.encode(EDITS[number]) for number in edits]
    return [pair for pair in found if isinstance(pair, PreferencePair)]


@given(st.lists(st.builds(PreferencePair, IDS, IDS, IDS), max_size=6))
def test_packed_pairs_come_back(pairs: list[PreferencePair]) -> None:
    packed = pack_pairs(pairs)
    assert packed.dtype == torch.int32
    assert list(unpack_pairs(packed)) == pairs


@pytest.mark.parametrize(("number", "last"), [(0, ""), (2, "bc"), (3, "abc"), (9, "abc")])
def test_the_last_ones_stay(number: int, last: str) -> None:
    pairs = {name: PreferencePair((1,), (place,), (9,)) for place, name in enumerate("abc")}
    assert last_pairs(list(pairs.values()), number) == [pairs[name] for name in last]


def test_by_default_nothing_of_an_edit_is_kept(make: Callable[..., CorllLearner]) -> None:
    assert kept(update(make(), *EDITS)) == []


def test_the_last_edits_that_were_learnt_are_kept_and_no_acceptance_and_no_rejected_edit(
    make: Callable[..., CorllLearner],
) -> None:
    learner = make(replay_pairs=3, max_response_tokens=100, acceptance_weight=0.1)
    events = (EDITS[0], event("same", "same"), event("a" * 200, "b"), EDITS[1])
    first = update(learner, *events)
    assert kept(first) == pairs_of(learner, 0, 1)
    second = update(learner, *EDITS[2:4], adapter=first.adapter)
    assert kept(second) == pairs_of(learner, 1, 2, 3)
    assert kept(update(learner, event("same", "same"), adapter=second.adapter)) == pairs_of(learner, 1, 2, 3)


def test_a_lower_setting_trims_what_is_kept_and_0_forgets_it(make: Callable[..., CorllLearner]) -> None:
    many = update(make(replay_pairs=4), *EDITS)
    fewer, none = (update(make(replay_pairs=number), EDITS[0], adapter=many.adapter) for number in (2, 0))
    assert kept(fewer) == pairs_of(make(), 3, 0)
    assert kept(none) == []
    # What is beyond the setting is not trained on either.
    two = update(make(replay_pairs=2), *EDITS)
    assert isinstance(two.adapter, AdapterTensors)
    assert isinstance(many.adapter, AdapterTensors)
    assert same_bits(fewer.adapter, update(make(replay_pairs=2), EDITS[0], adapter=two.adapter).adapter)
    plain = replace(many.adapter, kept=two.adapter.kept[:0])
    assert same_bits(none.adapter, update(make(), EDITS[0], adapter=plain).adapter)
    assert not same_bits(none.adapter, fewer.adapter)


def test_figures_are_of_the_new_edits_alone(make: Callable[..., CorllLearner]) -> None:
    start = update(make(replay_pairs=2), *EDITS[:2]).adapter
    assert isinstance(start, AdapterTensors)
    replaying = update(make(replay_pairs=2, lr=1e-9), *EDITS[2:], adapter=start)
    plain = update(make(lr=1e-9), *EDITS[2:], adapter=replace(start, kept=start.kept[:0]))
    assert replaying.loss != plain.loss
    assert len(replaying.pairs) == len(plain.pairs) == 2
    for ours, theirs in zip(replaying.pairs, plain.pairs, strict=True):
        assert ours.margin == pytest.approx(theirs.margin, abs=1e-4)
        assert ours.edited_rise == pytest.approx(theirs.edited_rise, abs=1e-4)
        assert ours.delta_chosen_logp is not None
    assert replaying.saturated_share == plain.saturated_share
    assert replaying.steps == plain.steps


def test_the_guard_judges_a_step_by_the_new_edits_alone(make: Callable[..., CorllLearner]) -> None:
    learner = make(replay_pairs=2)
    start = update(learner, *EDITS[:2]).adapter
    short = replace(event("a", "b"), truncated=True)  # both tails are a single token
    outcome = update(learner, short, adapter=start)
    found = [learner.score([TrainingBatch("ann", adapter, (short,))])[0][0] for adapter in (start, outcome.adapter)]
    before, after = (score.policy for score in found if score is not None)
    changes = [abs(new - old) for new, old in zip(after, before, strict=True)]
    assert outcome.drift_nats == pytest.approx(sum(changes) / 2, rel=1e-3)


def test_a_run_with_a_restart_after_each_update_equals_one_without_to_the_bit(
    make: Callable[..., CorllLearner],
) -> None:
    """The state carries all that the next step depends on."""
    unbroken, through, restarted = make(replay_pairs=3), None, None
    for number in range(5):
        events = tuple(EDITS[(number + place) % 4] for place in range(1 + number % 3))
        through = update(unbroken, *events, uid=UID, adapter=through).adapter
        stored = None if restarted is None else decode(encode(UserState(UID, adapter=restarted)), UID).adapter
        restarted = update(make(replay_pairs=3), *events, uid=UID, adapter=stored).adapter
        assert same_bits(through, restarted)
        assert torch.equal(through.kept, restarted.kept)


def test_each_user_replays_the_users_own_pairs(make: Callable[..., CorllLearner]) -> None:
    learner = make(replay_pairs=2)
    starts = {
        uid: update(learner, *EDITS[place : place + 2], uid=uid).adapter for place, uid in ((0, "ann"), (2, "bob"))
    }
    together = learner.update([TrainingBatch(uid, adapter, EDITS[:1]) for uid, adapter in starts.items()])
    for outcome in together:
        alone = update(make(replay_pairs=2), EDITS[0], uid=outcome.uid, adapter=starts[outcome.uid])
        assert isinstance(outcome.adapter, AdapterTensors)
        assert isinstance(alone.adapter, AdapterTensors)
        torch.testing.assert_close(outcome.adapter.weights, alone.adapter.weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("reference", ["base", "previous"])
def test_a_kept_pair_that_does_not_fit_any_more_is_dropped_and_the_new_edit_is_learnt(
    make: Callable[..., CorllLearner], resident: ResidentModel, small_device: list[int], reference: str
) -> None:
    small, *others, largest = sorted(EDITS, key=lambda edit: tokens_of_pair(resident, edit))
    start = update(make(replay_pairs=2), others[0], largest).adapter
    assert isinstance(start, AdapterTensors)
    small_device.append(tokens_of_pair(resident, largest) - 1)
    outcome = update(make(replay_pairs=2, reference=reference), small, adapter=start)
    assert [pair.reason for pair in outcome.pairs] == [None]
    assert kept(outcome) == [next(unpack_pairs(start.kept)), make()._encoder.encode(small)]


def test_a_kept_pair_that_is_not_finite_any_more_keeps_no_edit_from_being_learnt(tmp_path: Path) -> None:
    resident = tiny_resident(make_tiny_model(tmp_path, "llama"))
    learner = CorllLearner(resident, LearningSettings(replay_pairs=2), GuardSettings(), 1)
    start = update(learner, event("see ~ then", "see ~ now"), EDITS[0]).adapter
    (token,) = resident.tokenizer("~", add_special_tokens=False)["input_ids"]
    resident.model.get_input_embeddings().weight[token] = float("nan")
    outcome = update(learner, *EDITS[1:3], adapter=start)
    assert [pair.status for pair in outcome.pairs] == [PairStatus.APPLIED] * 2
    assert kept(outcome) == pairs_of(learner, 1, 2)
