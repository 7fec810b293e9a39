"""A replay of an archive through the learner. Each edit is judged before it is learnt."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from corlld.learning.learner import CorllLearner
from corlld.learning.model.resident import ResidentModel
from corlld.learning.user_step import PairScore
from corlld.records import Adapter, EditEvent, PairStatus, TrainingBatch
from corlld.settings.sections import BatchingSettings, GuardSettings
from corlld.simulation.studies.contract import Row
from corlld.simulation.studies.real_edits.archive import Editor
from corlld.simulation.studies.real_edits.rules import Rule
from corlld.simulation.studies.workshop import pseudonym

ROUND = BatchingSettings().max_events  # edits of a micro-batch, as in the daemon


@dataclass(frozen=True, slots=True)
class Replayed:
    """A finished replay. rows: one per judged edit. adapters: one per editor, as it was after half of the edits."""

    rows: list[Row]
    adapters: list[Adapter | None]


def replay(resident: ResidentModel, editors: Sequence[Editor], rule: Rule, seed: int) -> Replayed:
    """Replay all editors side by side, with a micro-batch of each in every update.

    Args:
        resident: the model.
        editors: with equally many edits. Each gets an adapter of its own.
        rule: how to learn from the edits.
        seed: of the new adapters, and of flips.
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
        # Scored before training: the second step of a micro-batch would know what the first has learnt, and fine-tuning
        # on texts scores nothing.
        scores = _scores(learner, editors, adapters, fresh, seed)
        batches = [
            TrainingBatch(pseudonym(seed, editor.name), adapter, tuple(_lesson(event, rule) for event in new))
            for editor, adapter, new in zip(editors, adapters, fresh, strict=True)
        ]
        outcomes = learner.update(batches)
        for place, (editor, outcome) in enumerate(zip(editors, outcomes, strict=True)):
            for offset, (pair, score) in enumerate(zip(outcome.pairs, scores[place], strict=True)):
                applied = outcome.trained if rule.texts else pair.status is PairStatus.APPLIED
                if score is not None:
                    rows.append(_row(editor, start + offset, score, rule, seed, trained=start > 0, applied=applied))
        adapters = [outcome.adapter for outcome in outcomes]
    return Replayed(rows, halfway)


def cross_scores(
    resident: ResidentModel, editors: Sequence[Editor], adapters: Sequence[Adapter | None], rule: Rule, seed: int
) -> list[Row]:
    """Score each editor's second half with its own adapter and with the next editor's, and learn nothing.

    The difference says whether an adapter knows the person or the domain. The column `gain` is the rise of the edited
    text's log-probability over the base model's, in nats per token.

    Args:
        resident: the model.
        editors: as in `replay`.
        adapters: one per editor, trained on the first half.
        rule: the rule that trained them.
        seed: as in `replay`.
    """
    learner = CorllLearner(resident, rule.learning, GuardSettings(), len(editors))
    trained = list(zip(editors, adapters, strict=True))
    rows: list[Row] = []
    for place, editor in enumerate(editors):
        start = middle(len(editor.edits))
        held_out = tuple(edit.event for edit in editor.edits[start:])
        owners = [trained[place], trained[(place + 1) % len(trained)]]
        scored = learner.score(
            [TrainingBatch(pseudonym(seed, owner.name), adapter, held_out) for owner, adapter in owners]
        )
        for (owner, _), scores in zip(owners, scored, strict=True):
            rows += [
                {
                    "editor": editor.name,
                    "edit": start + offset,
                    "seed": seed,
                    "adapter": owner.name,
                    "margin": round(score.margin, 4),
                    "base_margin": round(score.base.preference, 4),
                    "gain": round((score.policy.chosen - score.base.chosen) / score.edited_tokens, 5),
                }
                for offset, score in enumerate(scores)
                if score is not None
            ]
    return rows


def middle(count: int) -> int:
    """Return the index of the first edit of the second half. A micro-batch begins there."""
    return count // ROUND // 2 * ROUND


def _presented(event: EditEvent, rule: Rule, seed: int) -> EditEvent:
    """Return the event as the rule sees it."""
    if rule.flipped and _flip(event, seed):
        return replace(event, proposed=event.edited, edited=event.proposed)
    return event


def _lesson(event: EditEvent, rule: Rule) -> EditEvent:
    """Return the event that is trained on."""
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
            TrainingBatch(pseudonym(seed, editor.name), adapter, tuple(new))
            for editor, adapter, new in zip(editors, adapters, fresh, strict=True)
        ]
    )


def _row(editor: Editor, index: int, score: PairScore, rule: Rule, seed: int, *, trained: bool, applied: bool) -> Row:
    """Return the row of a judged edit. Its `flipped` is 1 if proposed and edited text had changed places."""
    return {
        "editor": editor.name,
        "edit": index,
        "seed": seed,
        "margin": round(score.margin, 4),
        "base_margin": round(score.base.preference, 4),
        "trained": int(trained),
        "applied": int(applied),
        "flipped": int(rule.flipped and _flip(editor.edits[index].event, seed)),
    }
