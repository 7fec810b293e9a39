"""`update(batches) -> outcomes`: each user's edits into that user's adapter, and nothing else."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import torch

from corlld.adapters.layout import AdapterTensors, adds_nothing, new_adapter
from corlld.errors import RejectReason
from corlld.learning.guard import is_repetitive
from corlld.learning.model.pairs import NoPair, PairEncoder, PreferencePair
from corlld.learning.model.resident import ResidentModel
from corlld.learning.rehearsal import rehearsals
from corlld.learning.slots import Slot, make_slots
from corlld.learning.steps import StepRunner
from corlld.learning.user_step import Candidate, PairScore, StepResult, UserStep
from corlld.records import EditEvent, ModelInfo, PairOutcome, PairStatus, TrainingBatch, UpdateOutcome
from corlld.settings.sections import GuardSettings, LearningSettings

# A pair is saturated where sigma(-beta h), the weight of its gradient, is below this.
_SATURATED_WEIGHT = 0.1


# In float32; numbers of half the size leave room for twice as many. On a CPU longer rows are faster yet (see
# `corlld bench`, gemm_share), and what they keep for the backward pass grows with them; on cuda not measured.
_AUTO_ROW_TOKENS = {"cpu": 896, "cuda": 4096}


def row_tokens(learning: LearningSettings, device: torch.device, dtype: torch.dtype) -> int:
    """The setting `learning.max_row_tokens`, on this device and for a base model in this dtype."""
    if learning.max_row_tokens == "auto":
        wide = _AUTO_ROW_TOKENS.get(device.type, _AUTO_ROW_TOKENS["cpu"])
        return wide * torch.float32.itemsize // dtype.itemsize
    return learning.max_row_tokens


@dataclass(eq=False)
class _Update:
    """One user's micro-batch under way. Pairs go by the index of their event."""

    batch: TrainingBatch
    adapter: AdapterTensors | None  # as it was given, and then as it was trained
    outcomes: dict[int, PairOutcome] = field(default_factory=dict)
    candidates: dict[int, Candidate] = field(default_factory=dict)
    slot: Slot | None = None
    untrained: bool = False
    queue: deque[list[int]] = field(default_factory=deque)  # pairs of the steps to come
    scores: dict[int, tuple[float, float, bool]] = field(default_factory=dict)  # margin, base margin, by a trained one
    deltas: dict[int, float] = field(default_factory=dict)
    applied: set[int] = field(default_factory=set)
    guilty: dict[int, RejectReason] = field(default_factory=dict)
    unrehearsed: set[int] = field(default_factory=set)  # failed alone beside a passage: from then on without one
    steps: int = 0
    loss_sum: float = 0.0
    loss_pairs: int = 0
    gradient_norm: float | None = None
    drift_nats: float | None = None
    plain_text_drops: list[float] = field(default_factory=list)  # of steps, in nats a token

    def next_step(self) -> list[int]:
        """The pairs of the next step; empty where none is left."""
        while self.queue:
            if chosen := [index for index in self.queue.popleft() if index not in self.guilty]:
                return chosen
        return []


class CorllLearner:
    """The learner on one resident model. Deterministic given its input, unless the device runs out of memory.

    Args:
        resident: the base model with its injected LoRA.
        learning: the rule.
        guard: when a step is undone.
        device_slots: users whose tensors stay on the device.
        adapter_dtype: float32, but for tests of exactness.
    """

    def __init__(
        self,
        resident: ResidentModel,
        learning: LearningSettings,
        guard: GuardSettings,
        device_slots: int,
        *,
        adapter_dtype: torch.dtype = torch.float32,
    ) -> None:
        self._resident = resident
        self._learning = learning
        self._max_repetition_rise = guard.max_repetition_rise
        # Pairs are scored by the base model, for their margins, and by the adapter where that is the reference.
        self._by_base = (True, False) if learning.reference == "previous" else (True,)
        self._encoder = PairEncoder(
            resident.tokenizer,
            max_context_tokens=learning.max_context_tokens,
            max_response_tokens=learning.max_response_tokens,
            max_positions=resident.max_positions,
            vocabulary=resident.vocabulary,
        )
        self._slots = make_slots(resident.layout.size, device_slots, resident.device, adapter_dtype)
        self._runner = StepRunner(
            resident, self._slots, learning, guard, row_tokens(learning, resident.device, resident.model.dtype)
        )
        self._rehearsals = rehearsals(learning, resident)
        self._batches = 0  # begun so far

    @property
    def model_info(self) -> ModelInfo:
        return self._resident.info

    @property
    def progress(self) -> int:
        """See the protocol."""
        return self._batches + self._runner.progress

    @property
    def tokens(self) -> tuple[int, int]:
        """See the protocol."""
        return self._runner.tokens, self._runner.padding

    def update(self, batches: Sequence[TrainingBatch]) -> list[UpdateOutcome]:
        """One outcome a batch, in order. See the protocol.

        Raises:
            ValueError: a user has two batches: the second one's adapter would lack what the first one changed.
        """
        _refuse_twice(batches)
        updates = [self._encode(batch) for batch in batches]
        training = [update for update in updates if update.candidates]
        for start in range(0, len(training), self._slots.slots):
            self._train(training[start : start + self._slots.slots])
        return [self._outcome(update) for update in updates]

    def score(self, batches: Sequence[TrainingBatch]) -> list[list[PairScore | None]]:
        """What each batch's adapter makes of its events, learning nothing; None for those that make no pair.

        Raises:
            ValueError: a user has two batches.
            torch.OutOfMemoryError: the device can't hold a pair.
        """
        _refuse_twice(batches)
        found: list[list[PairScore | None]] = []
        for start in range(0, len(batches), self._slots.slots):
            part = batches[start : start + self._slots.slots]
            candidates = [[self._candidate(event) for event in batch.events] for batch in part]
            steps = [
                UserStep(self._slots.place(batch.uid, self._start(batch)), [c for c in own if c is not None])
                for batch, own in zip(part, candidates, strict=True)
            ]
            for base in (True, False):
                self._runner.score([step for step in steps if step.candidates], base=base)
            found += [[None if c is None else _pair_score(c) for c in own] for own in candidates]
        return found

    def _start(self, batch: TrainingBatch) -> AdapterTensors:
        layout, revision = self._resident.layout, self._resident.info.revision
        return _own(batch) or new_adapter(layout, batch.uid, revision, self._slots.dtype)

    def _candidate(self, event: EditEvent) -> Candidate | None:
        pair = self._encoder.encode(event)
        return Candidate(pair) if isinstance(pair, PreferencePair) else None

    def _encode(self, batch: TrainingBatch) -> _Update:
        self._batches += 1
        update = _Update(batch, _own(batch))
        for index, event in enumerate(batch.events):
            if event.is_acceptance:
                update.outcomes[index] = PairOutcome(PairStatus.ACCEPTANCE)
                if not self._learning.acceptance_weight:
                    continue
            if is_repetitive(event, self._max_repetition_rise):
                update.outcomes[index] = PairOutcome(PairStatus.REJECTED, RejectReason.REPETITIVE)
                continue
            match self._encoder.encode(event):
                case PreferencePair() as pair:
                    update.candidates[index] = Candidate(pair)
                case NoPair():
                    update.outcomes[index] = PairOutcome(PairStatus.NO_DIFFERENCE)
                case RejectReason() as reason if not event.is_acceptance:
                    update.outcomes[index] = PairOutcome(PairStatus.REJECTED, reason)
        return update

    def _train(self, updates: Sequence[_Update]) -> None:
        """Steps of all users together, each user's own one after the other."""
        for update in updates:
            adapter = self._start(update.batch)
            update.untrained = adds_nothing(self._resident.layout, adapter)
            update.slot = self._slots.place(update.batch.uid, adapter)
            size, order = self._learning.pairs_per_step, list(update.candidates)
            cuts = [order[start : start + size] for start in range(0, len(order), size)]
            update.queue.extend(cuts * self._learning.steps_per_batch)
        self._score_references(updates)
        while parts := [(update, chosen) for update in updates if (chosen := update.next_step())]:
            steps = [self._rehearsing(update, chosen) for update, chosen in parts]
            for (update, chosen), step, result in zip(parts, steps, self._runner.run(steps), strict=True):
                self._take_in(update, chosen, result, rehearsed=step.rehearsal is not None)
        for update in updates:
            if update.steps and update.slot is not None:
                update.adapter = self._slots.read(update.slot)

    def _rehearsing(self, update: _Update, chosen: Sequence[int]) -> UserStep:
        """The step with the passage whose turn it is: that depends on the user's steps alone."""
        step = _step(update, chosen)
        if not self._rehearsals or update.unrehearsed.issuperset(chosen):
            return step
        return replace(step, rehearsal=replace(self._rehearsals[step.slot.optimizer_step % len(self._rehearsals)]))

    def _score_references(self, updates: Sequence[_Update]) -> None:
        """What the rule compares with, where the forward pass of a first step will not tell it."""
        for base in self._by_base:
            wanted = []
            for update in updates:
                # At its first step the policy is `previous`, and, where it was never trained, the base model as well.
                told = set(update.queue[0]) if update.untrained or not base else ()
                wanted.append((update, [index for index in update.candidates if index not in told]))
            self._ask(wanted, base=base)

    def _ask(self, wanted: Sequence[tuple[_Update, Sequence[int]]], *, base: bool) -> None:
        """Score those of the pairs whose reference is not known; who does not fit is guilty."""

        def unknown(update: _Update, chosen: Sequence[int]) -> list[int]:
            found = [(index, update.candidates[index]) for index in chosen]
            return [index for index, known in found if (known.base if base else known.previous) is None]

        asked = [(update, left) for update, chosen in wanted if (left := unknown(update, chosen))]
        self._runner.score([_step(update, chosen) for update, chosen in asked], base=base)
        for update, chosen in asked:
            update.guilty.update(dict.fromkeys(unknown(update, chosen), RejectReason.OUT_OF_MEMORY))

    def _take_in(self, update: _Update, chosen: list[int], result: StepResult, *, rehearsed: bool) -> None:
        """What a step did. One that failed is tried again pair by pair, and a pair that failed beside a passage without
        it; who fails alone is guilty.
        """
        trained = update.steps > 0 or not update.untrained
        for index in chosen:
            if (score := _score_of(update.candidates[index])) is not None:
                # The first score is the prequential one: later ones come after the pair was trained on.
                update.scores.setdefault(index, (*score, trained))
        if result.failure is not None:
            if len(chosen) > 1:
                # Rows behind one that did not fit told nothing; after the first of these steps it would be too late.
                for base in self._by_base:
                    self._ask([(update, chosen)], base=base)
                update.queue.extendleft([index] for index in reversed(chosen))
            elif rehearsed:
                update.unrehearsed.update(chosen)
                update.queue.appendleft(chosen)
            else:
                update.guilty[chosen[0]] = result.failure
            return
        update.steps += 1
        update.applied.update(chosen)
        update.loss_sum += (result.loss or 0.0) * len(chosen)
        update.loss_pairs += len(chosen)
        update.gradient_norm = result.gradient_norm
        if result.drift_nats is not None:
            update.drift_nats = result.drift_nats
        if result.plain_text_drop_nats is not None:
            update.plain_text_drops.append(result.plain_text_drop_nats)
        for index, delta in zip(chosen, result.delta_chosen_logps or (), strict=False):
            update.deltas.setdefault(index, delta)

    def _outcome(self, update: _Update) -> UpdateOutcome:
        for index, candidate in update.candidates.items():
            if not candidate.pair.is_acceptance:
                update.outcomes[index] = _pair_outcome(update, index)
        pairs = tuple(update.outcomes[index] for index in sorted(update.outcomes))
        saturated = self._saturated(update)
        if not update.steps:
            return UpdateOutcome(
                update.batch.uid, update.adapter, trained=False, pairs=pairs, saturated_share=saturated
            )
        return UpdateOutcome(
            uid=update.batch.uid,
            adapter=update.adapter,
            trained=True,
            pairs=pairs,
            steps=update.steps,
            loss=update.loss_sum / update.loss_pairs,
            gradient_norm=update.gradient_norm,
            drift_nats=update.drift_nats,
            plain_text_drop_nats=fmean(update.plain_text_drops) if update.plain_text_drops else None,
            saturated_share=saturated,
        )

    def _saturated(self, update: _Update) -> float | None:
        """Share of the scored pairs whose gradient has all but vanished."""
        limit = math.log(1 / _SATURATED_WEIGHT - 1) / self._learning.beta
        margins = [margin for margin, _, _ in update.scores.values()]
        return sum(h > limit for h in margins) / len(margins) if margins else None


def _refuse_twice(batches: Sequence[TrainingBatch]) -> None:
    """A second one's adapter would lack what the first one changed, or take its slot."""
    if len({batch.uid for batch in batches}) < len(batches):
        raise ValueError("a user has more than one batch in the same call")


def _own(batch: TrainingBatch) -> AdapterTensors | None:
    if batch.adapter is not None and not isinstance(batch.adapter, AdapterTensors):
        raise TypeError("an adapter of another make")
    return batch.adapter


def _pair_score(candidate: Candidate) -> PairScore:
    if candidate.base is None or candidate.previous is None:
        raise torch.OutOfMemoryError("a pair does not fit on the device by itself")
    return PairScore(candidate.previous, candidate.base, len(candidate.pair.chosen))


def _step(update: _Update, chosen: Sequence[int]) -> UserStep:
    assert update.slot is not None  # noqa: S101 - for the type checker
    return UserStep(update.slot, [update.candidates[index] for index in chosen])


def _score_of(candidate: Candidate) -> tuple[float, float] | None:
    """Margin against the base model, and what that itself prefers; None for an acceptance, and where not finite."""
    if candidate.pair.is_acceptance or candidate.now is None or candidate.base is None:
        return None
    base_margin = candidate.base[0] - candidate.base[1]
    margin = candidate.now[0] - candidate.now[1] - base_margin
    return (margin, base_margin) if math.isfinite(margin) and math.isfinite(base_margin) else None


def _pair_outcome(update: _Update, index: int) -> PairOutcome:
    margin, base_margin, trained = update.scores.get(index, (None, None, False))
    applied = index in update.applied
    return PairOutcome(
        status=PairStatus.APPLIED if applied else PairStatus.REJECTED,
        reason=None if applied else update.guilty[index],
        margin=margin,
        base_margin=base_margin,
        scored_by_trained=trained,
        delta_chosen_logp=update.deltas.get(index),
    )
