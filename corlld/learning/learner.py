"""`update(batches) -> outcomes`: each user's edits into that user's adapter, and nothing else."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from corlld.errors import RejectReason
from corlld.learning.adapter import AdapterTensors
from corlld.learning.pairs import NoPair, PairEncoder, PreferencePair
from corlld.learning.resident import ResidentModel
from corlld.learning.slots import Slot, SlotArena
from corlld.learning.stacked_lora import adds_nothing, new_adapter
from corlld.learning.steps import PairScore, StepRunner
from corlld.records import ModelInfo, PairOutcome, PairStatus, TrainingBatch, UpdateOutcome
from corlld.settings import GuardSettings, LearningSettings

# A pair is saturated where sigma(-beta h), the weight of its gradient, is below this.
_SATURATED_WEIGHT = 0.1


@dataclass(eq=False)
class _Update:
    """One user's micro-batch under way. Pairs go by the index of their event."""

    slot: Slot
    pairs: dict[int, PreferencePair]
    untrained: bool
    scores: dict[int, tuple[PairScore, bool]] = field(default_factory=dict)  # with scored_by_trained
    deltas: dict[int, float] = field(default_factory=dict)
    applied: set[int] = field(default_factory=set)
    guilty: dict[int, RejectReason] = field(default_factory=dict)
    steps: int = 0
    loss_sum: float = 0.0
    loss_pairs: int = 0
    gradient_norm: float | None = None
    drift_nats: float | None = None


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
        self._encoder = PairEncoder(
            resident.tokenizer,
            max_context_tokens=learning.max_context_tokens,
            max_response_tokens=learning.max_response_tokens,
            max_positions=resident.max_positions,
            vocabulary=resident.vocabulary,
        )
        self._arena = SlotArena(resident.lora, device_slots, resident.device, adapter_dtype)
        self._runner = StepRunner(resident, self._arena, learning, guard)
        self._batches = 0  # begun so far

    @property
    def model_info(self) -> ModelInfo:
        return self._resident.info

    @property
    def progress(self) -> int:
        """See the protocol."""
        return self._batches + self._runner.progress

    def update(self, batches: Sequence[TrainingBatch]) -> list[UpdateOutcome]:
        """One outcome a batch, in order. See the protocol.

        Raises:
            ValueError: a user has two batches: the second one's adapter would lack what the first one changed.
        """
        if len({batch.uid for batch in batches}) < len(batches):
            raise ValueError("a user has more than one batch in the same update")
        return [self._update_user(batch) for batch in batches]

    def _update_user(self, batch: TrainingBatch) -> UpdateOutcome:
        self._batches += 1
        given = batch.adapter
        if given is not None and not isinstance(given, AdapterTensors):
            raise TypeError("an adapter of another make")
        outcomes: dict[int, PairOutcome] = {}
        pairs: dict[int, PreferencePair] = {}
        for index, event in enumerate(batch.events):
            if event.is_acceptance:
                outcomes[index] = PairOutcome(PairStatus.ACCEPTANCE)
                if not self._learning.acceptance_weight:
                    continue
            match self._encoder.encode(event):
                case PreferencePair() as pair:
                    pairs[index] = pair
                case NoPair():
                    outcomes[index] = PairOutcome(PairStatus.NO_DIFFERENCE)
                case RejectReason() as reason if not event.is_acceptance:
                    outcomes[index] = PairOutcome(PairStatus.REJECTED, reason)
        if not pairs:
            return UpdateOutcome(batch.uid, given, trained=False, pairs=_in_order(outcomes))

        adapter = given
        if adapter is None:
            layout, revision = self._resident.layout, self._resident.info.revision
            adapter = new_adapter(layout, batch.uid, revision, self._arena.dtype)
        update = _Update(
            slot=self._arena.place(batch.uid, adapter),
            pairs=pairs,
            untrained=adds_nothing(self._resident.layout, adapter),
        )
        self._train(update)
        for index, pair in pairs.items():
            if not pair.is_acceptance:
                outcomes[index] = self._outcome(update, index)
        if not update.steps:
            self._arena.is_unchanged(update.slot, adapter)
            return UpdateOutcome(
                batch.uid, given, trained=False, pairs=_in_order(outcomes), saturated_share=self._saturated(update)
            )
        return UpdateOutcome(
            uid=batch.uid,
            adapter=self._arena.read(update.slot),
            trained=True,
            pairs=_in_order(outcomes),
            steps=update.steps,
            loss=update.loss_sum / update.loss_pairs,
            gradient_norm=update.gradient_norm,
            drift_nats=update.drift_nats,
            saturated_share=self._saturated(update),
        )

    def _train(self, update: _Update) -> None:
        self._arena.touch(update.slot)
        with torch.no_grad():
            self._arena.beginning.copy_(update.slot.weights)
        size = self._learning.pairs_per_step
        order = list(update.pairs)
        for _ in range(self._learning.steps_per_batch):
            for start in range(0, len(order), size):
                self._step(update, [index for index in order[start : start + size] if index not in update.guilty])

    def _step(self, update: _Update, chosen: list[int]) -> None:
        """A step on these pairs; where it fails, one on each of them alone, and who fails alone is guilty."""
        if not chosen:
            return
        trained = update.steps > 0 or not update.untrained
        result = self._runner.run(
            update.slot,
            [update.pairs[index] for index in chosen],
            untrained=not trained,
            at_beginning=update.steps == 0,
        )
        for index, score in zip(chosen, result.scores, strict=True):
            if score is not None:
                # The first score is the prequential one: later ones come after the pair was trained on.
                update.scores.setdefault(index, (score, trained))
        if result.failure is not None:
            if len(chosen) == 1:
                update.guilty[chosen[0]] = result.failure
                return
            for index in chosen:
                self._step(update, [index])
            return
        update.steps += 1
        update.applied.update(chosen)
        update.loss_sum += (result.loss or 0.0) * len(chosen)
        update.loss_pairs += len(chosen)
        update.gradient_norm = result.gradient_norm
        if result.drift_nats is not None:
            update.drift_nats = result.drift_nats
        for index, delta in zip(chosen, result.delta_chosen_logps or (), strict=False):
            update.deltas.setdefault(index, delta)

    def _outcome(self, update: _Update, index: int) -> PairOutcome:
        score, trained = update.scores.get(index, (None, False))
        applied = index in update.applied
        return PairOutcome(
            status=PairStatus.APPLIED if applied else PairStatus.REJECTED,
            reason=None if applied else update.guilty[index],
            margin=score.margin if score else None,
            base_margin=score.base_margin if score else None,
            scored_by_trained=trained,
            delta_chosen_logp=update.deltas.get(index),
        )

    def _saturated(self, update: _Update) -> float | None:
        """Share of the scored pairs whose gradient has all but vanished."""
        limit = math.log(1 / _SATURATED_WEIGHT - 1) / self._learning.beta
        margins = [score.margin for score, _ in update.scores.values()]
        return sum(h > limit for h in margins) / len(margins) if margins else None


def _in_order(outcomes: dict[int, PairOutcome]) -> tuple[PairOutcome, ...]:
    return tuple(outcomes[index] for index in sorted(outcomes))
