"""One user's micro-batch on its way through an update: which pairs its steps take, and what became of each event.

It knows no device: the learner runs the steps, and hands their results in.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from corlld.adapters.layout import AdapterTensors
from corlld.errors import RejectReason
from corlld.learning.model.pairs import PreferencePair
from corlld.learning.objective import Objective, PairSums
from corlld.learning.slots import Slot
from corlld.learning.user_step import Candidate, StepResult, UserStep
from corlld.records import PairOutcome, PairStatus, TrainingBatch, UpdateOutcome


@dataclass(frozen=True, slots=True)
class Prequential:
    """A pair's scores before it was learnt from. by_trained: by an adapter that took a step before."""

    now: PairSums
    base: PairSums
    edited_tokens: int  # length of the edited tail
    by_trained: bool

    @property
    def margin(self) -> float:
        """The margin h over the tails, in nats, by any rule."""
        return self.now.tail.preference - self.base_margin

    @property
    def base_margin(self) -> float:
        """The base model's own preference for the edited tail, in nats."""
        return self.base.tail.preference

    @property
    def edited_rise(self) -> float:
        """The rise of log pi(edited tail) over the base model, in nats per token."""
        return (self.now.tail.chosen - self.base.tail.chosen) / self.edited_tokens


@dataclass(eq=False)
class UserUpdate:
    """One user's micro-batch under way. Pairs go by the index of their event.

    replayed: the user's pairs of before, which are trained beside the new ones in each step.
    """

    batch: TrainingBatch
    adapter: AdapterTensors | None  # as it was given, and then as it was trained
    outcomes: dict[int, PairOutcome] = field(default_factory=dict)
    candidates: dict[int, Candidate] = field(default_factory=dict)
    replayed: list[Candidate] = field(default_factory=list)
    slot: Slot | None = None
    untrained: bool = False
    queue: deque[list[int]] = field(default_factory=deque)  # pairs of the steps to come
    _scores: dict[int, Prequential] = field(default_factory=dict)
    _deltas: dict[int, float] = field(default_factory=dict)
    _applied: set[int] = field(default_factory=set)
    _guilty: dict[int, RejectReason] = field(default_factory=dict)
    _alone: set[int] = field(default_factory=set)  # failed as the only new pair: from then on nothing is beside it
    _steps: list[StepResult] = field(default_factory=list)
    _loss_sum: float = 0.0
    _loss_pairs: int = 0

    @property
    def trained(self) -> bool:
        return bool(self._steps)

    def plan(self, pairs_per_step: int, steps_per_batch: int) -> None:
        """Queue the steps of the micro-batch."""
        order = list(self.candidates)
        cuts = [order[start : start + pairs_per_step] for start in range(0, len(order), pairs_per_step)]
        self.queue.extend(cuts * steps_per_batch)

    def next_step(self) -> list[int]:
        """Take the pairs of the next step from the queue; empty if none is left."""
        while self.queue:
            if chosen := [index for index in self.queue.popleft() if index not in self._guilty]:
                return chosen
        return []

    def step(self, chosen: Sequence[int]) -> UserStep:
        """Return the step on these pairs."""
        assert self.slot is not None  # noqa: S101 - for the type checker
        return UserStep(self.slot, [self.candidates[index] for index in chosen])

    def is_alone(self, chosen: Sequence[int]) -> bool:
        """Return whether nothing may be trained beside these pairs."""
        return self._alone.issuperset(chosen)

    @property
    def learnt(self) -> list[PreferencePair]:
        """The edits that a step was taken on, in order."""
        found = (self.candidates[index].pair for index in sorted(self._applied))
        return [pair for pair in found if not pair.is_acceptance]

    def unknown(self, chosen: Sequence[int], *, base: bool) -> list[int]:
        """Return those of the pairs whose reference, `base` or else `previous`, is not known yet."""
        found = [(index, self.candidates[index]) for index in chosen]
        return [index for index, known in found if (known.base if base else known.previous) is None]

    def reject(self, chosen: Sequence[int], reason: RejectReason) -> None:
        """Take these pairs out of the steps to come."""
        self._guilty.update(dict.fromkeys(chosen, reason))

    def keep_scores(self, chosen: Sequence[int]) -> None:
        """Keep the first score of each pair of a step. Later ones come after the pair was trained on."""
        trained = self.trained or not self.untrained
        for index in chosen:
            if (score := _score_of(self.candidates[index], by_trained=trained)) is not None:
                self._scores.setdefault(index, score)

    def retry(self, chosen: list[int], failure: RejectReason, *, beside: bool) -> None:
        """Queue the pairs of a failed step one by one. A single pair goes alone, or else is rejected.

        beside: whether something else was trained in that step.
        """
        if len(chosen) > 1:
            self.queue.extendleft([index] for index in reversed(chosen))
        elif beside:
            self._alone.update(chosen)
            self.queue.appendleft(chosen)
        else:
            self.reject(chosen, failure)

    def apply(self, chosen: list[int], result: StepResult) -> None:
        """Take in a step that did not fail."""
        self._steps.append(result)
        self._applied.update(chosen)
        self._loss_sum += (result.loss or 0.0) * len(chosen)
        self._loss_pairs += len(chosen)
        for index, delta in zip(chosen, result.delta_chosen_logps or (), strict=False):
            self._deltas.setdefault(index, delta)

    def outcome(self, objective: Objective) -> UpdateOutcome:
        """Return what became of the micro-batch, once all its steps were taken."""
        for index, candidate in self.candidates.items():
            if not candidate.pair.is_acceptance:
                self.outcomes[index] = self._pair_outcome(index)
        pairs = tuple(self.outcomes[index] for index in sorted(self.outcomes))
        saturated = [objective.is_saturated(objective.margin(score.now, score.base)) for score in self._scores.values()]
        share = sum(saturated) / len(saturated) if saturated else None
        if not self._steps:
            return UpdateOutcome(self.batch.uid, self.adapter, trained=False, pairs=pairs, saturated_share=share)
        drifts = [step.drift_nats for step in self._steps if step.drift_nats is not None]
        drops = [step.plain_text_drop_nats for step in self._steps if step.plain_text_drop_nats is not None]
        return UpdateOutcome(
            uid=self.batch.uid,
            adapter=self.adapter,
            trained=True,
            pairs=pairs,
            steps=len(self._steps),
            loss=self._loss_sum / self._loss_pairs,
            gradient_norm=self._steps[-1].gradient_norm,
            drift_nats=drifts[-1] if drifts else None,
            plain_text_drop_nats=fmean(drops) if drops else None,
            saturated_share=share,
        )

    def _pair_outcome(self, index: int) -> PairOutcome:
        score = self._scores.get(index)
        applied = index in self._applied
        return PairOutcome(
            status=PairStatus.APPLIED if applied else PairStatus.REJECTED,
            reason=None if applied else self._guilty[index],
            margin=None if score is None else score.margin,
            base_margin=None if score is None else score.base_margin,
            scored_by_trained=score is not None and score.by_trained,
            edited_rise=None if score is None else score.edited_rise,
            delta_chosen_logp=self._deltas.get(index),
        )


def _score_of(candidate: Candidate, *, by_trained: bool) -> Prequential | None:
    """Return a pair's scores; None for an acceptance, and if its margins are not finite."""
    if candidate.pair.is_acceptance or candidate.now is None or candidate.base is None:
        return None
    score = Prequential(candidate.now, candidate.base, len(candidate.pair.chosen), by_trained)
    return score if math.isfinite(score.margin) and math.isfinite(score.base_margin) else None
