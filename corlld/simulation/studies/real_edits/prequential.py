"""A replay of an editor's archive through the learner. Each edit is judged before it is learnt."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from corlld.adapters.layout import AdapterTensors
from corlld.learning.learner import CorllLearner
from corlld.learning.model.resident import ResidentModel
from corlld.records import EditEvent, PairOutcome, PairStatus, TrainingBatch
from corlld.settings.sections import GuardSettings, LearningSettings
from corlld.simulation.studies.contract import Row
from corlld.simulation.studies.real_edits.archive import Editor
from corlld.simulation.studies.real_edits.rules import Rule
from corlld.simulation.studies.workshop import pseudonym

# Edits of a micro-batch: one step. So each edit is judged by an adapter that has learnt from all earlier rounds.
ROUND = LearningSettings().pairs_per_step


@dataclass(frozen=True, slots=True)
class Replayed:
    """A finished replay. rows: one per judged edit. adapter: as it was after the last edit; None: untrained."""

    rows: list[Row]
    adapter: AdapterTensors | None


@dataclass(frozen=True, slots=True)
class _Judged:
    """An edit's scores before it is learnt from, in nats.

    rise: of log pi(edited tail) over the base model, per token. margin, base_margin: see `PairOutcome`.
    """

    rise: float
    margin: float
    base_margin: float


def replay(
    resident: ResidentModel, editor: Editor, rule: Rule, seed: int, places: range, adapter: AdapterTensors | None = None
) -> Replayed:
    """Replay some of an editor's edits, a round after the other.

    Args:
        resident: the model.
        editor: the editor.
        rule: how to learn from the edits.
        seed: of the new adapter, and of flips.
        places: of the edits. It starts where a round begins.
        adapter: as an earlier replay has left it; None: a new one.
    """
    learner = CorllLearner(resident, rule.learning, GuardSettings(), 1)
    uid = pseudonym(seed, editor.name)
    rows: list[Row] = []
    for start in places[::ROUND]:
        fresh = [_presented(edit.event, rule, seed) for edit in editor.edits[start : min(start + ROUND, places.stop)]]
        before = _scores(learner, uid, adapter, fresh) if rule.whole else None
        (outcome,) = learner.update([TrainingBatch(uid, adapter, tuple(_lesson(event, rule) for event in fresh))])
        for offset, (event, pair) in enumerate(zip(fresh, outcome.pairs, strict=True)):
            judged = before[offset] if before is not None else _judged(pair)
            if judged is None:
                continue
            applied = outcome.trained if rule.whole else pair.status is PairStatus.APPLIED
            head: Row = {"editor": editor.name, "edit": start + offset, "seed": seed}
            flipped = rule.flipped and _flip(event, seed)
            state: Row = {"trained": int(start > 0), "applied": int(applied), "flipped": int(flipped)}
            rows.append(head | _figures(judged) | state)
        if outcome.adapter is not None and not isinstance(outcome.adapter, AdapterTensors):
            raise TypeError("another type of adapter")
        adapter = outcome.adapter
    return Replayed(rows, adapter)


def cross_scores(
    resident: ResidentModel, editor: Editor, adapters: dict[str, AdapterTensors], rule: Rule, seed: int
) -> list[Row]:
    """Score the editor's second half with several adapters, its own among them, and learn nothing.

    The difference says whether an adapter knows the person or the domain.

    Args:
        resident: the model.
        editor: as in `replay`.
        adapters: by the name of the editor on whose first half each was trained.
        rule: the rule that trained them.
        seed: as in `replay`.
    """
    learner = CorllLearner(resident, rule.learning, GuardSettings(), 1)
    start = middle(len(editor.edits))
    held_out = [edit.event for edit in editor.edits[start:]]
    rows: list[Row] = []
    for owner, adapter in adapters.items():
        for offset, judged in enumerate(_scores(learner, pseudonym(seed, owner), adapter, held_out)):
            if judged is not None:
                head: Row = {"editor": editor.name, "edit": start + offset, "seed": seed, "adapter": owner}
                rows.append(head | _figures(judged))
    return rows


def middle(count: int) -> int:
    """Return the index of the first edit of the second half. A round begins there."""
    return count // ROUND // 2 * ROUND


def _presented(event: EditEvent, rule: Rule, seed: int) -> EditEvent:
    """Return the event as the rule sees it."""
    if rule.flipped and _flip(event, seed):
        return replace(event, proposed=event.edited, edited=event.proposed)
    return event


def _lesson(event: EditEvent, rule: Rule) -> EditEvent:
    """Return the event that is trained on."""
    return replace(event, proposed=event.edited) if rule.whole else event


def _flip(event: EditEvent, seed: int) -> bool:
    return bool(hashlib.sha256(f"{seed} {event.event_id}".encode()).digest()[0] & 1)


def _scores(
    learner: CorllLearner, uid: str, adapter: AdapterTensors | None, events: Sequence[EditEvent]
) -> list[_Judged | None]:
    (found,) = learner.score([TrainingBatch(uid, adapter, tuple(events))])
    return [
        None
        if score is None
        else _Judged(
            (score.policy.chosen - score.base.chosen) / score.edited_tokens, score.margin, score.base.preference
        )
        for score in found
    ]


def _judged(pair: PairOutcome) -> _Judged | None:
    """Return the scores of the forward pass of the step; None for an edit that was never scored."""
    if pair.edited_rise is None or pair.margin is None or pair.base_margin is None:
        return None
    return _Judged(pair.edited_rise, pair.margin, pair.base_margin)


def _figures(judged: _Judged) -> Row:
    return {
        "rise": round(judged.rise, 5),
        "margin": round(judged.margin, 4),
        "base_margin": round(judged.base_margin, 4),
    }
