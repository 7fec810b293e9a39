"""Edits of a few words, and updates with them, for tests of the learner."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import torch

from corlld.adapters.layout import AdapterTensors
from corlld.learning.learner import CorllLearner
from corlld.learning.model.packing import Item
from corlld.learning.model.pairs import PreferencePair
from corlld.learning.model.resident import ResidentModel
from corlld.records import EditEvent, TrainingBatch, UpdateOutcome
from corlld.settings.sections import GuardSettings, LearningSettings

TEXTS = (
    ("see you on friday", "see you on monday"),
    ("the meeting is at ten", "the meeting begins at ten"),
    ("kind regards", "best wishes"),
    ("one and two", "one or two"),
)


def event(proposed: str, edited: str, **fields: Any) -> EditEvent:
    """Return the edit of a draft, for a short prompt."""
    plain = EditEvent("e", "u", datetime(2026, 1, 1, tzinfo=UTC), "Dear all, ", None, proposed, edited)
    return replace(plain, **fields)


EDITS = tuple(event(*texts) for texts in TEXTS)


def update(learner: CorllLearner, *events: EditEvent, uid: str = "ann", adapter: Any = None) -> UpdateOutcome:
    """Update one user."""
    (outcome,) = learner.update([TrainingBatch(uid, adapter, events)])
    return outcome


def neighbours(learner: CorllLearner, *events: EditEvent, adapter: Any = None) -> list[UpdateOutcome]:
    """Update ann, bob and cy in one call: bob with these events, the others with two edits."""
    batches = [TrainingBatch(uid, None, EDITS[:2]) for uid in ("ann", "bob", "cy")]
    batches[1] = TrainingBatch("bob", adapter, events)
    return learner.update(batches)


def weights(outcome: UpdateOutcome) -> torch.Tensor:
    assert isinstance(outcome.adapter, AdapterTensors)
    return outcome.adapter.weights


def bits(adapter: Any) -> list[torch.Tensor]:
    """Return a copy of each tensor as integers, so that NaN equals itself and -0 is not 0."""
    return [t.clone().view(torch.int32) for t in (adapter.weights, adapter.exp_avg, adapter.exp_avg_sq)]


def same_bits(left: Any, right: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(bits(left), bits(right), strict=True))


def tokens_of_pair(resident: ResidentModel, edit: EditEvent) -> int:
    """Return how many tokens the edit takes in a row."""
    learner = CorllLearner(resident, LearningSettings(), GuardSettings(), 1)
    pair = learner._encoder.encode(edit)
    assert isinstance(pair, PreferencePair)
    return pair.tokens


def tokens_of_row(resident: ResidentModel) -> int:
    """Return how many tokens a row of one user's `EDITS` has."""
    learner = CorllLearner(resident, LearningSettings(rehearsal_weight=0.0), GuardSettings(), 1)
    pairs = [learner._encoder.encode(edit) for edit in EDITS]
    items = [Item(0, pair) for pair in pairs if isinstance(pair, PreferencePair)]
    return resident.collator.row(items, range(len(items)), users=1).tokens
