"""An archive replayed through the learner: each edit is judged before it is learnt from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from corlld.learning.learner import CorllLearner
from corlld.learning.resident import ResidentModel
from corlld.learning.user_step import PairScore
from corlld.records import Adapter, EditEvent, PairOutcome, PairStatus, TrainingBatch
from corlld.settings import BatchingSettings, GuardSettings
from corlld.simulation.studies.edit_archive import Editor
from corlld.simulation.studies.edit_rules import Rule
from corlld.simulation.studies.study import Row

ROUND = BatchingSettings().max_events  # edits of a micro-batch, as the daemon's


@dataclass(frozen=True, slots=True)
class Replayed:
    """rows: one for each edit that was judged. adapters: of each editor, as they were in the middle of the edits."""

    rows: list[Row]
    adapters: list[Adapter | None]


@dataclass(frozen=True, slots=True)
class _Judged:
    margin: float
    base_margin: float
    trained: bool  # by an adapter that was trained before
    applied: bool


def replay(resident: ResidentModel, editors: Sequence[Editor], rule: Rule, seed: int) -> Replayed:
    """All editors side by side, a micro-batch of each in one update, each with an adapter of its own.

    Args:
        resident: the model.
        editors: with equally many edits.
        rule: how they are learnt from.
        seed: of the adapters' starts, and of flips.
    """
    learner = CorllLearner(resident, rule.learning, GuardSettings(), len(editors))
    events = [[_presented(edit.event, rule, seed) for edit in editor.edits] for editor in editors]
    count = len(events[0])
    adapters: list[Adapter | None] = [None] * len(editors)
    halfway = adapters
    rows: list[Row] = []
    for start in range(0, count, ROUND):
        if start == middle(count):
            halfway = adapters
        fresh = [own[start : start + ROUND] for own in events]
        scores = _scores(learner, editors, adapters, fresh, seed) if rule.texts else None
        batches = [
            TrainingBatch(_uid(editor.name, seed), adapter, tuple(_lesson(event, rule) for event in new))
            for editor, adapter, new in zip(editors, adapters, fresh, strict=True)
        ]
        outcomes = learner.update(batches)
        for place, (editor, outcome) in enumerate(zip(editors, outcomes, strict=True)):
            for offset, pair in enumerate(outcome.pairs):
                judged = _by_score(scores[place][offset], outcome.trained, start) if scores else _by_outcome(pair)
                if judged is not None:
                    rows.append(_row(editor, start + offset, judged, rule, seed))
        adapters = [outcome.adapter for outcome in outcomes]
    return Replayed(rows, halfway)


def cross_scores(
    resident: ResidentModel, editors: Sequence[Editor], adapters: Sequence[Adapter | None], rule: Rule, seed: int
) -> list[Row]:
    """Each editor's second half scored by its own adapter and by the next editor's, learning nothing: does an adapter
    know the person or the domain?

    adapters: of each editor, trained on the first half. gain: rise of the edited text's log-probability over the base
    model's, in nats a token.
    """
    learner = CorllLearner(resident, rule.learning, GuardSettings(), len(editors))
    trained = list(zip(editors, adapters, strict=True))
    rows: list[Row] = []
    for place, editor in enumerate(editors):
        start = middle(len(editor.edits))
        held_out = tuple(edit.event for edit in editor.edits[start:])
        owners = [trained[place], trained[(place + 1) % len(trained)]]
        scored = learner.score([TrainingBatch(_uid(owner.name, seed), adapter, held_out) for owner, adapter in owners])
        for (owner, _), scores in zip(owners, scored, strict=True):
            rows += [
                {
                    "editor": editor.name,
                    "edit": start + offset,
                    "seed": seed,
                    "adapter": owner.name,
                    "margin": round(score.margin, 4),
                    "base_margin": round(score.base[0] - score.base[1], 4),
                    "gain": round((score.policy[0] - score.base[0]) / score.edited_tokens, 5),
                }
                for offset, score in enumerate(scores)
                if score is not None
            ]
    return rows


def middle(count: int) -> int:
    """The first edit of the second half: a micro-batch begins there."""
    return count // ROUND // 2 * ROUND


def _presented(event: EditEvent, rule: Rule, seed: int) -> EditEvent:
    """The event as the rule is given it."""
    if rule.flipped and _flip(event, seed):
        return replace(event, proposed=event.edited, edited=event.proposed)
    return event


def _lesson(event: EditEvent, rule: Rule) -> EditEvent:
    """What is trained on."""
    return replace(event, proposed=event.edited) if rule.texts else event


def _flip(event: EditEvent, seed: int) -> bool:
    return bool(hashlib.sha256(f"{seed} {event.event_id}".encode()).digest()[0] & 1)


def _scores(
    learner: CorllLearner,
    editors: Sequence[Editor],
    adapters: Sequence[Adapter | None],
    fresh: Sequence[Sequence[EditEvent]],
    seed: int,
) -> list[list[PairScore | None]]:
    return learner.score(
        [
            TrainingBatch(_uid(editor.name, seed), adapter, tuple(new))
            for editor, adapter, new in zip(editors, adapters, fresh, strict=True)
        ]
    )


def _by_outcome(pair: PairOutcome) -> _Judged | None:
    if pair.margin is None or pair.base_margin is None:
        return None
    return _Judged(pair.margin, pair.base_margin, pair.scored_by_trained, pair.status is PairStatus.APPLIED)


def _by_score(score: PairScore | None, trained: bool, start: int) -> _Judged | None:
    if score is None:
        return None
    return _Judged(score.margin, score.base[0] - score.base[1], start > 0, trained)


def _row(editor: Editor, index: int, judged: _Judged, rule: Rule, seed: int) -> Row:
    """flipped: what was judged as the edit is the text that the editor did away with."""
    return {
        "editor": editor.name,
        "edit": index,
        "seed": seed,
        "margin": round(judged.margin, 4),
        "base_margin": round(judged.base_margin, 4),
        "trained": int(judged.trained),
        "applied": int(judged.applied),
        "flipped": int(rule.flipped and _flip(editor.edits[index].event, seed)),
    }


def _uid(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()[:32]
