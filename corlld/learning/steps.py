"""One optimizer step on one user's slot: score, train, measure, and undo what the guard does not allow."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from corlld.errors import RejectReason
from corlld.learning import guard
from corlld.learning.collate import Row, pack
from corlld.learning.loss import acceptance_loss, corll_loss, margin
from corlld.learning.optimizer import adamw_step_, clip_, scaled_lr
from corlld.learning.pairs import PreferencePair
from corlld.learning.resident import ResidentModel
from corlld.learning.scoring import token_logps
from corlld.learning.slots import Slot, SlotArena, is_out_of_memory
from corlld.learning.stacked_lora import Weights
from corlld.settings import GuardSettings, LearningSettings


@dataclass(frozen=True, slots=True)
class PairScore:
    """A pair before the step, in nats. margin: h against the base model. base_margin: what that itself prefers."""

    margin: float
    base_margin: float


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step did. With a `failure` the slot is as it was, bit for bit.

    scores: one for each pair that was given; None for an acceptance, and where a number was not finite.
    loss: mean over the pairs. gradient_norm: before it was clipped. drift_nats, delta_chosen_logps: None where the
    step's drift was not due.
    """

    failure: RejectReason | None
    scores: tuple[PairScore | None, ...]
    loss: float | None = None
    gradient_norm: float | None = None
    drift_nats: float | None = None
    delta_chosen_logps: tuple[float, ...] | None = None


@dataclass(frozen=True, eq=False)
class RowScores:
    """A row before a step. loss: sum over its pairs, with its graph. tokens: log pi, (N,). The others: (pairs,)."""

    loss: torch.Tensor
    tokens: torch.Tensor
    margins: torch.Tensor
    base_margins: torch.Tensor


class _RowTooLarge(Exception):
    """The device could not hold a row."""

    def __init__(self, number: int) -> None:
        self.number = number


class StepRunner:
    """Takes steps on slots of one arena.

    Args:
        resident: the base model with its injected LoRA.
        arena: the users' places on the device.
        learning: the rule.
        guard_settings: when a step is undone.
    """

    def __init__(
        self, resident: ResidentModel, arena: SlotArena, learning: LearningSettings, guard_settings: GuardSettings
    ) -> None:
        self._resident = resident
        self._arena = arena
        self._learning = learning
        self._guard = guard_settings
        self._beginning = resident.lora.weights(arena.beginning)
        self.progress = 0  # rows run and steps taken so far; read by other threads

    def run(self, slot: Slot, pairs: Sequence[PreferencePair], *, untrained: bool, at_beginning: bool) -> StepResult:
        """One step on `pairs`.

        Args:
            slot: the user's, changed in place.
            pairs: at least one.
            untrained: the adapter adds nothing yet, so that the policy is the base model and need not be run twice.
            at_beginning: no step of the micro-batch was taken yet, so that the policy is the reference `previous`.
        """
        rows = pack(pairs, self._learning.max_row_tokens, self._resident.device)
        while True:
            self._arena.save_undo(slot)
            try:
                return self._attempt(slot, rows, untrained=untrained, at_beginning=at_beginning)
            except _RowTooLarge as error:
                number = error.number
            # Out of the handler, since its traceback would hold on to the tensors of the failed row.
            self._arena.undo(slot)
            if self._resident.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(rows[number].pairs) == 1:
                return StepResult(RejectReason.OUT_OF_MEMORY, (None,) * len(pairs))
            rows[number : number + 1] = rows[number].halves()

    def score_row(self, row: Row, leaves: Weights, *, untrained: bool, at_beginning: bool) -> RowScores:
        """Loss and margins of a row. The forward pass that training needs anyway also gives the prequential figures."""
        rule = self._learning
        base = None if untrained else self._logps(row, None)
        previous = None
        if rule.reference == "previous" and not at_beginning:
            previous = self._logps(row, self._beginning)
        with self._resident.lora.bind(leaves):
            tokens = token_logps(self._resident.model, self._resident.windows, row)
        now = tokens.detach()
        policy, base_sums = row.sums(tokens), row.sums(now if base is None else base)
        reference = base_sums
        if rule.reference == "previous":
            reference = row.sums(now if previous is None else previous)

        accepted = [pair.is_acceptance for pair in row.pairs]
        paired = _indices([i for i, yes in enumerate(accepted) if not yes], tokens.device)
        losses = corll_loss(
            *(sums[paired] for sums in (*policy, *reference)), beta=rule.beta, epsilon=rule.epsilon, anchor=rule.anchor
        ).losses.sum()
        if any(accepted):
            alone = _indices([i for i, yes in enumerate(accepted) if yes], tokens.device)
            losses = losses + acceptance_loss(policy[0][alone], rule.acceptance_weight).sum()
        return RowScores(
            loss=losses,
            tokens=now,
            margins=margin(*row.sums(now), *base_sums),
            base_margins=base_sums[0] - base_sums[1],
        )

    def _attempt(self, slot: Slot, rows: list[Row], *, untrained: bool, at_beginning: bool) -> StepResult:
        count = sum(len(row.pairs) for row in rows)
        gradient = self._arena.gradient
        gradient.zero_()
        before: list[torch.Tensor] = []
        total = torch.zeros((), dtype=torch.float64)
        scores: list[PairScore | None] = [None] * count
        for number, row in enumerate(rows):
            with _blaming(number):
                scored = self.score_row(row, slot.leaves, untrained=untrained, at_beginning=at_beginning)
                (scored.loss / count).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            self.progress += 1
            before.append(scored.tokens)
            total += scored.loss.detach().cpu()
            for place, score in zip(row.members, _finite_scores(row, scored), strict=True):
                scores[place] = score

        norm = self.apply_gradient(slot, count)
        self.progress += 1
        if not (total.isfinite() and guard.all_finite(norm, *slot.tensors)):
            self._arena.undo(slot)
            return StepResult(RejectReason.NON_FINITE, tuple(scores))

        drift, deltas = None, None
        if guard.is_due(slot.optimizer_step, self._guard.every_steps):
            drift, deltas = self._measure(slot, rows, before)
            if not guard.within(drift, self._guard.max_drift_nats):
                self._arena.undo(slot)
                failure = RejectReason.DRIFT if math.isfinite(drift) else RejectReason.NON_FINITE
                return StepResult(failure, tuple(scores))
        return StepResult(None, tuple(scores), float(total) / count, float(norm), drift, deltas)

    @torch.no_grad()
    def apply_gradient(self, slot: Slot, count: int) -> torch.Tensor:
        """Clip the gathered gradient of `count` pairs and take the step. Returns the norm before, a scalar tensor."""
        rule = self._learning
        norm = clip_(self._arena.gradient, rule.max_gradient_norm)
        slot.optimizer_step += 1
        adamw_step_(
            slot.weights,
            self._arena.gradient,
            slot.exp_avg,
            slot.exp_avg_sq,
            step=slot.optimizer_step,
            lr=scaled_lr(rule.lr, count, rule.pairs_per_step),
            beta1=rule.beta1,
            beta2=rule.beta2,
            eps=rule.adam_eps,
        )
        return norm

    def _measure(
        self, slot: Slot, rows: Sequence[Row], before: Sequence[torch.Tensor]
    ) -> tuple[float, tuple[float, ...]]:
        """Drift per tail token, and the change of each pair's log pi(edited tail), in the order given to `run`."""
        after: list[torch.Tensor] = []
        deltas = [0.0] * sum(len(row.pairs) for row in rows)
        for number, (row, then) in enumerate(zip(rows, before, strict=True)):
            with _blaming(number):
                now = self._logps(row, slot.leaves)
            self.progress += 1
            after.append(now)
            for place, delta in zip(row.members, row.sums(now - then)[0].tolist(), strict=True):
                deltas[place] = delta
        return guard.drift_nats(torch.cat(list(before)), torch.cat(after)), tuple(deltas)

    @torch.no_grad()
    def _logps(self, row: Row, weights: Weights | None) -> torch.Tensor:
        with self._resident.lora.bind(weights):
            return token_logps(self._resident.model, self._resident.windows, row)


def _finite_scores(row: Row, scored: RowScores) -> Iterator[PairScore | None]:
    figures = torch.stack([scored.margins, scored.base_margins], dim=1).tolist()
    for pair, (h, base) in zip(row.pairs, figures, strict=True):
        usable = math.isfinite(h) and math.isfinite(base) and not pair.is_acceptance
        yield PairScore(h, base) if usable else None


def _indices(values: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.long, device=device)


@contextlib.contextmanager
def _blaming(number: int) -> Iterator[None]:
    """Say which row the device could not hold."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise _RowTooLarge(number) from None
        raise
