"""A device with too little memory: what is split, and what is rejected."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from corlld.adapters.layout import UserVectors
from corlld.errors import RejectReason
from corlld.learning import steps
from corlld.learning.learner import CorllLearner
from corlld.learning.model.resident import ResidentModel
from corlld.learning.model.stacked_lora import StackedAdapters, StackedLora
from corlld.learning.optimizer import adamw_step_
from corlld.learning.start_adapter import StartAdapter
from corlld.records import PairStatus, TrainingBatch
from corlld.settings.sections import GuardSettings, LearningSettings
from tests.support.learning import EDITS, neighbours, tokens_of_pair, tokens_of_row, update, weights


def test_a_step_that_runs_out_of_memory_is_split_and_stays_the_same(
    make: Callable[..., CorllLearner], resident: ResidentModel, small_device: list[int]
) -> None:
    whole = update(make(), *EDITS)
    small_device.append(max(tokens_of_pair(resident, edit) for edit in EDITS))
    split = update(make(), *EDITS)
    assert split.steps == whole.steps == 1
    torch.testing.assert_close(weights(split), weights(whole), rtol=1e-3, atol=1e-4)


def test_a_single_pair_that_runs_out_of_memory_is_rejected_alone(
    make: Callable[..., CorllLearner], resident: ResidentModel, small_device: list[int]
) -> None:
    sizes = [tokens_of_pair(resident, edit) for edit in EDITS]
    small_device.append(max(sizes) - 1)
    outcome = update(make(), *EDITS)
    expected = [RejectReason.OUT_OF_MEMORY if size == max(sizes) else None for size in sizes]
    assert [pair.reason for pair in outcome.pairs] == expected
    assert expected.count(None) == 3


def test_pairs_behind_one_that_does_not_fit_are_held_to_the_reference_as_the_batch_began(
    make: Callable[..., CorllLearner], resident: ResidentModel, small_device: list[int]
) -> None:
    small, *others, largest = sorted(EDITS, key=lambda edit: tokens_of_pair(resident, edit))
    for reference in ("base", "previous"):
        # Steps of one pair at a quarter of the rate, as the pairs are tried one by one.
        small_device.append(10**9)
        expected = update(make(reference=reference, pairs_per_step=1, lr=1e-2 / 4), small, *others)
        small_device.append(tokens_of_pair(resident, largest) - 1)
        outcome = update(make(reference=reference, pairs_per_step=4), small, largest, *others)
        assert [pair.reason for pair in outcome.pairs] == [None, RejectReason.OUT_OF_MEMORY, None, None]
        margins = [pair.margin for pair in outcome.pairs if pair.margin is not None]
        assert margins == pytest.approx([pair.margin for pair in expected.pairs], abs=1e-4)
        torch.testing.assert_close(weights(outcome), weights(expected), rtol=1e-4, atol=1e-5)


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


def test_start_adapters_that_fit_for_one_user_alone_are_compared_with_user_by_user(
    resident: ResidentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = StartAdapter(torch.randn(resident.layout.size, generator=torch.Generator().manual_seed(0)) * 0.1, "digest")
    rule = LearningSettings(lr=1e-2, pairs_per_step=1, rehearsal_weight=0.0)
    guard = GuardSettings(max_drift_nats=1e9, every_steps=1000)  # it measures no step, which would need room as well
    expected = neighbours(CorllLearner(resident, rule, guard, 4, start=start), *EDITS)
    refused = []
    stack = StackedLora.stack

    def small(lora: StackedLora, users: UserVectors, gradient: torch.Tensor | None = None) -> StackedAdapters:
        if gradient is None and len(users) > 1:
            refused.append(len(users))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stack(lora, users, gradient)

    monkeypatch.setattr(StackedLora, "stack", small)
    outcomes = neighbours(CorllLearner(resident, rule, guard, 4, start=start), *EDITS)
    assert refused
    for outcome, whole in zip(outcomes, expected, strict=True):
        assert {pair.status for pair in outcome.pairs} == {PairStatus.APPLIED}
        torch.testing.assert_close(weights(outcome), weights(whole), rtol=1e-4, atol=1e-5)
        margins = [pair.margin for pair in outcome.pairs]
        assert margins == pytest.approx([pair.margin for pair in whole.pairs], abs=1e-4)


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
    own = tokens_of_row(resident)

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
    small_device.append(tokens_of_row(resident))
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
