"""Passes through the base model: who shares them, and how their tokens and progress are counted."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from corlld.learning.learner import CorllLearner, row_tokens
from corlld.learning.model.resident import ResidentModel
from corlld.learning.passes import Passes
from corlld.learning.steps import StepRunner
from corlld.records import TrainingBatch
from corlld.settings.sections import GuardSettings, LearningSettings
from tests.support.learning import EDITS, event, tokens_of_pair, tokens_of_row, update
from tests.support.tiny_models import make_tiny_model, tiny_resident


def test_users_of_one_call_whose_pairs_fit_in_a_row_go_through_the_model_together(
    make: Callable[..., CorllLearner], resident: ResidentModel
) -> None:
    rows: list[int] = []
    own = tokens_of_row(resident)
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


def test_progress_grows_with_every_row_and_step_inside_an_update(
    make: Callable[..., CorllLearner], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make(pairs_per_step=1, max_row_tokens=64)
    seen: list[int] = []
    row_losses, take_step = Passes.row_losses, StepRunner.take_step
    monkeypatch.setattr(Passes, "row_losses", lambda *a, **k: (seen.append(learner.progress), row_losses(*a, **k))[1])
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
    assert 0 < learner.tokens.padding < learner.tokens.computed / 2


def test_users_are_shared_out_evenly_over_as_few_passes_as_there_must_be(
    make: Callable[..., CorllLearner], resident: ResidentModel
) -> None:
    size = tokens_of_pair(resident, EDITS[0])
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
    size = tokens_of_pair(resident, EDITS[0])
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
