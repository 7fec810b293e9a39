"""corlld's own learner, given all users at once or one after the other."""

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import torch

from corlld.adapters.layout import AdapterTensors
from corlld.bench.ways import RULE, Took, settle
from corlld.bench.workloads import PAIRS, Workload
from corlld.errors import FatalError
from corlld.learning.learner import CorllLearner
from corlld.learning.model.loading import load_resident_model
from corlld.learning.model.pairs import PairEncoder
from corlld.learning.model.resident import ResidentModel
from corlld.records import EditEvent, PairStatus, TrainingBatch
from corlld.settings.sections import AdapterSettings, GuardSettings, LearningSettings, ModelSettings

ADAPTER = AdapterSettings()


def load(model: str, dtype: str) -> ResidentModel:
    """Return the model with its injected LoRA, as the daemon loads it. Raises FatalError."""
    return load_resident_model(ModelSettings.model_validate({"name": model, "dtype": dtype}), ADAPTER)


def make_encoder(tokenizer: Any) -> PairEncoder:
    """Return an encoder like the learner's own."""
    return PairEncoder(
        tokenizer, max_context_tokens=RULE.max_context_tokens, max_response_tokens=RULE.max_response_tokens
    )


def make_learner(
    resident: ResidentModel, guard: GuardSettings, slots: int = 2 * PAIRS, rule: LearningSettings = RULE
) -> CorllLearner:
    """Return a learner. By default it has a slot for each user of two ways, packed and one at a time."""
    return CorllLearner(resident, rule, guard, slots)


def trained_starts(learner: CorllLearner, workload: Workload) -> list[AdapterTensors]:
    """Return each user's adapter after one update. An untrained adapter would get its reference pass for nothing.

    Raises FatalError if a pair was not trained: then the ways would not do the same.
    """
    batches = [
        TrainingBatch(_uid(f"start of {number}"), None, tuple(edit.event for edit in edits))
        for number, edits in enumerate(workload.users)
    ]
    return _update(learner, batches)


class Ours:
    """The `Way` of corlld. It tokenises its events in every round, as the daemon does.

    Args:
        name: makes its users others than those of another way with the same learner.
        packed: all users in one call; else a call for each.
    """

    def __init__(
        self,
        name: str,
        resident: ResidentModel,
        learner: CorllLearner,
        users: Sequence[tuple[EditEvent, ...]],
        starts: Sequence[AdapterTensors],
        *,
        packed: bool,
    ) -> None:
        self._device = resident.device
        self._learner = learner
        self._users = [(_uid(f"{name} {number}"), events) for number, events in enumerate(users)]
        self._adapters = list(starts)
        self._packed = packed

    def round(self) -> Took:
        started = time.perf_counter()
        batches = [
            TrainingBatch(uid, adapter, events)
            for (uid, events), adapter in zip(self._users, self._adapters, strict=True)
        ]
        calls = [batches] if self._packed else [[batch] for batch in batches]
        self._adapters = [adapter for call in calls for adapter in _update(self._learner, call)]
        settle(self._device)
        return Took(time.perf_counter() - started)

    def weights(self) -> list[torch.Tensor]:
        return [adapter.weights for adapter in self._adapters]


def _update(learner: CorllLearner, batches: Sequence[TrainingBatch]) -> list[AdapterTensors]:
    adapters = []
    for outcome in learner.update(batches):
        if any(pair.status is not PairStatus.APPLIED for pair in outcome.pairs):
            raise FatalError("a pair of the bench was not trained on: other edits, or another model, are needed")
        assert isinstance(outcome.adapter, AdapterTensors)  # noqa: S101 - for the type checker
        adapters.append(outcome.adapter)
    return adapters


def _uid(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
