"""The learner: `update(batches) -> outcomes` learns each user's edits into that user's adapter, and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from corlld.adapters.layout import AdapterTensors, adds_nothing, new_adapter
from corlld.durable import ModelInfo
from corlld.errors import RejectReason
from corlld.learning.guard import is_repetitive
from corlld.learning.kept_pairs import last_pairs, pack_pairs, unpack_pairs
from corlld.learning.model.pairs import NoPair, PairEncoder, PreferencePair
from corlld.learning.model.resident import ResidentModel
from corlld.learning.objective import Objective
from corlld.learning.rehearsal import rehearsals
from corlld.learning.slots import Slots, make_slots
from corlld.learning.start_adapter import References, StartAdapter
from corlld.learning.steps import StepRunner
from corlld.learning.user_step import Candidate, PairScore, StepResult, UserStep
from corlld.learning.user_update import UserUpdate
from corlld.records import EditEvent, PairOutcome, PairStatus, TokenCounts, TrainingBatch, UpdateOutcome
from corlld.settings.sections import GuardSettings, LearningSettings

# In float32; numbers of half the size leave room for twice as many. On a CPU longer rows are faster yet (see
# `corlld bench`, gemm_share), and what they keep for the backward pass grows with them; on cuda not measured.
_AUTO_ROW_TOKENS = {"cpu": 896, "cuda": 4096}


def row_tokens(learning: LearningSettings, device: torch.device, dtype: torch.dtype) -> int:
    """Return the setting `learning.max_row_tokens` for a base model of this dtype on this device."""
    if learning.max_row_tokens == "auto":
        wide = _AUTO_ROW_TOKENS.get(device.type, _AUTO_ROW_TOKENS["cpu"])
        return wide * torch.float32.itemsize // dtype.itemsize
    return learning.max_row_tokens


class CorllLearner:
    """The learner on one resident model. Deterministic given its input, unless the device runs out of memory.

    Args:
        resident: the base model with its injected LoRA.
        learning: the rule.
        guard: when a step is undone.
        device_slots: how many users' tensors stay on the device.
        template_kwargs: arguments of the chat template in every chat (`model.chat_template_kwargs`).
        beside: a learner on the same model by another rule. Its slots, passages and start adapter are shared.
        adapter_dtype: float32, but for tests of exactness.
        start: the adapter that new users begin from, and are compared with. None: they begin from nothing, or as those
            of the learner `beside`.
    """

    def __init__(
        self,
        resident: ResidentModel,
        learning: LearningSettings,
        guard: GuardSettings,
        device_slots: int,
        *,
        template_kwargs: Mapping[str, Any] | None = None,
        beside: "CorllLearner | None" = None,
        adapter_dtype: torch.dtype = torch.float32,
        start: StartAdapter | None = None,
    ) -> None:
        self._resident = resident
        self._learning = learning
        self._max_repetition_rise = guard.max_repetition_rise
        # Pairs are scored by `base` (the base model, or the start adapter that the user began from), for their
        # margins, and by the adapter if that is the reference.
        self._by_base = (True, False) if learning.reference == "previous" else (True,)
        self._encoder = PairEncoder(
            resident.tokenizer,
            max_context_tokens=learning.max_context_tokens,
            max_response_tokens=learning.max_response_tokens,
            max_positions=resident.max_positions,
            vocabulary=resident.vocabulary,
            template_kwargs=template_kwargs,
            prompt_special_tokens=learning.prompt_special_tokens,
            stops=resident.stops,
        )
        self._slots: Slots = (
            make_slots(resident.layout.size, device_slots, resident.device, adapter_dtype)
            if beside is None
            else beside._slots
        )
        self._start: StartAdapter | None = start if beside is None else beside._start
        self._references: References = References(start, resident.device) if beside is None else beside._references
        self._objective = Objective(learning)
        self._runner = StepRunner(
            resident,
            self._slots,
            learning,
            self._objective,
            guard,
            row_tokens(learning, resident.device, resident.model.dtype),
            self._references,
        )
        known = beside._rehearsals if beside is not None and learning.rehearsal_weight else ()
        self._rehearsals: tuple[Candidate, ...] = known or rehearsals(learning, resident)
        self._batches = 0  # begun so far

    @property
    def model_info(self) -> ModelInfo:
        return self._resident.info

    @property
    def start_digest(self) -> str | None:
        """The digest of the adapter that new users begin from; None if there is none."""
        return None if self._start is None else self._start.digest

    @property
    def progress(self) -> int:
        """See the protocol."""
        return self._batches + self._runner.progress

    @property
    def tokens(self) -> TokenCounts:
        """See the protocol."""
        return self._runner.passes.tokens

    def update(self, batches: Sequence[TrainingBatch]) -> list[UpdateOutcome]:
        """Return one outcome per batch, in order. See the protocol.

        Raises:
            ValueError: a user has two batches: the second one's adapter would lack what the first one changed.
        """
        _refuse_twice(batches)
        updates = [self._encode(batch) for batch in batches]
        training = [update for update in updates if update.candidates]
        for start in range(0, len(training), self._slots.slots):
            self._train(training[start : start + self._slots.slots])
        return [update.outcome(self._objective) for update in updates]

    def score(self, batches: Sequence[TrainingBatch]) -> list[list[PairScore | None]]:
        """Score each batch's events by its adapter, learning nothing. None for an event that makes no pair.

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
                UserStep(self._slots.place(batch.uid, self._beginning(batch)), [c for c in own if c is not None])
                for batch, own in zip(part, candidates, strict=True)
            ]
            for base in (True, False):
                self._runner.passes.score([step for step in steps if step.candidates], base=base)
            found += [[None if c is None else _pair_score(c) for c in own] for own in candidates]
        return found

    def _beginning(self, batch: TrainingBatch) -> AdapterTensors:
        """Return the adapter that the batch is learnt into: the user's own, or a new user's first one."""
        if (own := _own(batch)) is not None:
            return own
        if self._start is not None:
            return self._start.first_adapter(self._slots.dtype)
        return new_adapter(self._resident.layout, batch.uid, self._resident.info.revision, self._slots.dtype)

    def _is_untrained(self, adapter: AdapterTensors) -> bool:
        """Return whether the policy is exactly its reference `base`: the start adapter, or else the base model."""
        if self._start is not None and adapter.start == self._start.digest:
            return adapter.optimizer_step == 0
        return adds_nothing(self._resident.layout, adapter)

    def _candidate(self, event: EditEvent) -> Candidate | None:
        pair = self._encoder.encode(event)
        return Candidate(pair) if isinstance(pair, PreferencePair) else None

    def _encode(self, batch: TrainingBatch) -> UserUpdate:
        self._batches += 1
        update = UserUpdate(batch, _own(batch))
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

    def _train(self, updates: Sequence[UserUpdate]) -> None:
        """Take the steps of all users together, and each user's own steps one after the other."""
        for update in updates:
            adapter = self._beginning(update.batch)
            update.untrained = self._is_untrained(adapter)
            update.slot = self._slots.place(update.batch.uid, adapter)
            update.plan(self._learning.pairs_per_step, self._learning.steps_per_batch)
            kept = last_pairs(list(unpack_pairs(adapter.kept)), self._learning.replay_pairs)
            update.replayed = [Candidate(pair, replayed=True) for pair in kept]
        self._score_references(updates)
        while parts := [(update, chosen) for update in updates if (chosen := update.next_step())]:
            steps = [self._with_others(update, chosen) for update, chosen in parts]
            for (update, chosen), step, result in zip(parts, steps, self._runner.run(steps), strict=True):
                self._take_in(update, chosen, result, beside=len(step.scored) > len(chosen))
        for update in updates:
            if update.trained and update.slot is not None:
                update.adapter = self._slots.read(update.slot, self._kept(update))

    def _kept(self, update: UserUpdate) -> torch.Tensor:
        """Return the last pairs after the update, to be kept. A pair that did not fit on the device is dropped."""
        pairs = [candidate.pair for candidate in update.replayed] + update.learnt
        return pack_pairs(last_pairs(pairs, self._learning.replay_pairs))

    def _with_others(self, update: UserUpdate, chosen: Sequence[int]) -> UserStep:
        """Return the step with the pairs of before, and with the passage whose turn it is.

        Both depend on the user's steps alone.
        """
        step = update.step(chosen)
        if update.is_alone(chosen):
            return step
        step = replace(step, replayed=update.replayed)
        if not self._rehearsals:
            return step
        return replace(step, rehearsal=replace(self._rehearsals[step.slot.optimizer_step % len(self._rehearsals)]))

    def _score_references(self, updates: Sequence[UserUpdate]) -> None:
        """Score what the rule compares with, unless the forward pass of a first step will do it."""
        for base in self._by_base:
            wanted = []
            for update in updates:
                # At its first step the policy is `previous`, and, if it was never trained, the base model as well.
                first = set(update.queue[0]) if update.untrained or not base else ()
                wanted.append((update, [index for index in update.candidates if index not in first]))
            self._ask(wanted, base=base)
            self._score_replayed([update for update in updates if update.replayed], base=base)

    def _score_replayed(self, updates: Sequence[UserUpdate], *, base: bool) -> None:
        """Score the pairs of before. One that does not fit on the device is dropped."""
        steps = [replace(update.step(()), replayed=update.replayed) for update in updates]
        self._runner.passes.score(steps, base=base)
        for update in updates:
            update.replayed = [c for c in update.replayed if (c.base if base else c.previous) is not None]

    def _ask(self, wanted: Sequence[tuple[UserUpdate, Sequence[int]]], *, base: bool) -> None:
        """Score those of the pairs whose reference is not known. A pair that does not fit is rejected."""
        asked = [(update, left) for update, chosen in wanted if (left := update.unknown(chosen, base=base))]
        self._runner.passes.score([update.step(chosen) for update, chosen in asked], base=base)
        for update, chosen in asked:
            update.reject(update.unknown(chosen, base=base), RejectReason.OUT_OF_MEMORY)

    def _take_in(self, update: UserUpdate, chosen: list[int], result: StepResult, *, beside: bool) -> None:
        update.keep_scores(chosen)
        if result.failure is None:
            update.apply(chosen, result)
            return
        if len(chosen) > 1:
            # Rows behind one that did not fit were not scored. After the next step it would be too late.
            for base in self._by_base:
                self._ask([(update, chosen)], base=base)
        update.retry(chosen, result.failure, beside=beside)


def _refuse_twice(batches: Sequence[TrainingBatch]) -> None:
    """Refuse two batches of one user: the second adapter would lack what the first one changed, or take its slot."""
    if len({batch.uid for batch in batches}) < len(batches):
        raise ValueError("a user has more than one batch in the same call")


def _own(batch: TrainingBatch) -> AdapterTensors | None:
    if batch.adapter is not None and not isinstance(batch.adapter, AdapterTensors):
        raise TypeError("another type of adapter")
    return batch.adapter


def _pair_score(candidate: Candidate) -> PairScore:
    if candidate.base is None or candidate.previous is None:
        raise torch.OutOfMemoryError("a pair does not fit on the device by itself")
    return PairScore(candidate.previous.tail, candidate.base.tail, len(candidate.pair.chosen))
