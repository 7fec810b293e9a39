"""Optimizer steps of several users at once: score, train, measure, and keep only what the guard allows."""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence

import torch

from corlld.errors import RejectReason
from corlld.learning import guard
from corlld.learning.loss import acceptance_loss, corll_loss, rehearsal_loss
from corlld.learning.model.packing import Item, Row, cut
from corlld.learning.model.resident import ResidentModel
from corlld.learning.model.stacked_lora import StackedAdapters
from corlld.learning.optimizer import adamw_step_, clip_, scaled_lr
from corlld.learning.slots import Rows, Slots, is_out_of_memory
from corlld.learning.user_step import Candidate, StepResult, Sums, UserStep, by_user, mean_loss
from corlld.settings.sections import GuardSettings, LearningSettings

# Longer rows are faster, and one without gradient keeps nothing for later. Where `max_row_tokens` is 1, for results to
# the bit, this is still less than two pairs.
_SCORED = 4


class _RowTooLarge(Exception):
    """The device could not hold a row; its number, None where the memory was short between rows."""

    def __init__(self, number: int | None) -> None:
        self.number = number


class StepRunner:
    """Takes steps on users' slots.

    Args:
        resident: the base model with its injected LoRA.
        slots: the users' places.
        learning: the rule.
        guard_settings: when a step is undone.
        row_tokens: tokens of the pairs that share a forward and a backward pass. References are scored in longer rows.
    """

    def __init__(
        self,
        resident: ResidentModel,
        slots: Slots,
        learning: LearningSettings,
        guard_settings: GuardSettings,
        row_tokens: int,
    ) -> None:
        self._resident = resident
        self._slots = slots
        self._learning = learning
        self._guard = guard_settings
        self._row_tokens = row_tokens
        self.progress = 0  # rows run and steps taken so far; read by other threads
        self.tokens = 0  # computed by rows so far
        self.padding = 0  # of those, for nothing

    def score(self, steps: Sequence[UserStep], *, base: bool) -> None:
        """Fill in `base`, or else `previous`, of the candidates, by a pass without gradient.

        A candidate that the device can't hold is left as it was.
        """
        for group in self._groups(steps, _SCORED * self._row_tokens):
            self._score_group(group, base=base)

    def _score_group(self, group: Sequence[UserStep], *, base: bool) -> None:
        adapters = None
        if not base:
            with contextlib.suppress(_RowTooLarge), _blaming(None):
                adapters = self._resident.lora.stack(self._slots.gather([step.slot for step in group])[0])
            if adapters is None:
                self._free_memory()
                if len(group) > 1:
                    middle = len(group) // 2
                    self._score_group(group[:middle], base=base)
                    self._score_group(group[middle:], base=base)
                return
        candidates, items = _flat(group)
        waiting = self._resident.collator.pack(items, _SCORED * self._row_tokens, len(group))
        while waiting:
            row = waiting.pop(0)
            tokens = None
            with contextlib.suppress(_RowTooLarge), _blaming(None):
                tokens = self._scored(row, adapters)
            if tokens is None:
                self._free_memory()
                if len(row.items) > 1:
                    waiting[:0] = self._resident.collator.halves(items, row)
                continue
            for member, sums in zip(row.members, _pairs_of(row.sums(tokens)), strict=True):
                if base:
                    candidates[member].base = sums
                else:
                    candidates[member].previous = sums

    def run(self, steps: Sequence[UserStep]) -> list[StepResult]:
        """One step of each user, in order. Where a candidate's `base` is not known the policy is the base model; where
        its `previous` is not, the policy is that.
        """
        return [result for group in self._groups(steps, self._row_tokens) for result in self._run_group(group)]

    def _groups(self, steps: Sequence[UserStep], row_tokens: int) -> Iterator[list[UserStep]]:
        """Users whose pairs fit in one row together; one with more has rows of its own. See `_rows` for passages.

        As few groups as there must be, of about the same size: a last one of what is left over would be slow.
        """
        sizes = [sum(candidate.pair.tokens for candidate in step.candidates) for step in steps]
        share = sum(sizes) / max(1, -(-sum(sizes) // row_tokens))
        group: list[UserStep] = []
        tokens, before, given = 0, 0, 0
        for step, size in zip(steps, sizes, strict=True):
            if group and (tokens + size > row_tokens or before + size / 2 > share * (given + 1)):
                yield group
                group, tokens = [], 0
                given += 1
            group.append(step)
            tokens += size
            before += size
        if group:
            yield group

    def _run_group(self, group: list[UserStep]) -> list[StepResult]:
        candidates, items = _flat(group)
        rows = self._rows(candidates, items, len(group))
        while True:
            try:
                return self._attempt(group, candidates, rows)
            except _RowTooLarge as error:
                number = error.number
            # Out of the handler, since its traceback would hold on to the tensors of the failed row.
            self._free_memory()
            if len(group) > 1:
                middle = len(group) // 2
                return self._run_group(group[:middle]) + self._run_group(group[middle:])
            if number is None or len(rows[number].items) == 1:
                return [StepResult(RejectReason.OUT_OF_MEMORY)]
            rows[number : number + 1] = self._resident.collator.halves(items, rows[number])

    def _attempt(
        self, group: Sequence[UserStep], candidates: Sequence[Candidate], rows: Sequence[Row]
    ) -> list[StepResult]:
        with _blaming(None):
            weights, gradient = self._slots.gather([step.slot for step in group])
            adapters = self._resident.lora.stack(weights, gradient)
        counts = [len(step.candidates) for step in group]
        before: list[torch.Tensor] = []
        losses = [0.0] * len(candidates)
        for number, row in enumerate(rows):
            own = [candidates[member] for member in row.members]
            with _blaming(number):
                tokens, row_losses = self.row_losses(row, adapters, own, counts)
            self._count(row)
            before.append(tokens)
            for candidate, sums in zip(own, _pairs_of(row.sums(tokens)), strict=True):
                candidate.now = sums
                candidate.base = candidate.base or sums
                candidate.previous = candidate.previous or sums
            for member, loss in zip(row.members, row_losses.tolist(), strict=True):
                losses[member] = loss
        with _blaming(None):
            tensors, norms = self.take_step(group, gradient)
            finite = guard.all_finite(*tensors, norms[:, None]).tolist()
        del gradient, adapters
        means = [mean_loss(own, part) for own, part in zip(counts, by_user(losses, group), strict=True)]
        finite = [good and math.isfinite(mean) for good, mean in zip(finite, means, strict=True)]

        due = [guard.is_due(step.slot.optimizer_step + 1, self._guard.every_steps) for step in group]
        due = [good and now for good, now in zip(finite, due, strict=True)]
        measured = self._measure(candidates, rows, tensors[0], before, due)
        results = []
        for user, (step, mean, norm) in enumerate(zip(group, means, norms.tolist(), strict=True)):
            drift, deltas = measured.get(user, (None, None))
            failure = None if finite[user] else RejectReason.NON_FINITE
            if drift is not None and not guard.within(drift, self._guard.max_drift_nats):
                failure = RejectReason.DRIFT if math.isfinite(drift) else RejectReason.NON_FINITE
            if failure is None:
                self._slots.commit(step.slot, [tensor[user] for tensor in tensors], step.slot.optimizer_step + 1)
                results.append(StepResult(None, mean, norm, drift, deltas, step.plain_text_drop_nats))
            else:
                results.append(StepResult(failure))
        return results

    def row_losses(
        self, row: Row, adapters: StackedAdapters, candidates: Sequence[Candidate], counts: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward and backward. The forward pass that training needs anyway also gives the prequential figures.

        Args:
            row: a part of the step.
            adapters: of the step's users; their gradients grow by the row's part of each user's mean loss.
            candidates: the row's, in its order.
            counts: pairs of each user in the step, without what is rehearsed.

        Returns:
            log pi of each tail token, (N,), and the loss of each pair, both without a graph.
        """
        rule = self._learning
        with self._resident.bound(row, adapters):
            tokens = self._resident.token_logps(row)
            now = tokens.detach()
            policy, before = row.sums(tokens), row.sums(now)
            known = [c.previous if rule.reference == "previous" else c.base for c in candidates]
            reference = _where_known(known, before)
            losses = corll_loss(
                *policy,
                *reference,
                beta=rule.beta,
                epsilon=rule.epsilon,
                anchor=rule.anchor,
                imitation=rule.imitation_weight,
            ).losses
            if any(candidate.pair.is_acceptance for candidate in candidates):
                accepted = torch.tensor([c.pair.is_acceptance for c in candidates], device=tokens.device)
                losses = torch.where(accepted, acceptance_loss(policy[0], rule.acceptance_weight), losses)
            if any(candidate.rehearsed for candidate in candidates):
                rehearsed = torch.tensor([c.rehearsed for c in candidates], device=tokens.device)
                base = _where_known([c.base for c in candidates], before)[0]
                lengths = torch.tensor([len(c.pair.chosen) for c in candidates], device=tokens.device)
                losses = torch.where(rehearsed, rehearsal_loss(policy[0], base, lengths, rule.rehearsal_weight), losses)
            shares = torch.tensor(
                [1.0 if c.rehearsed else 1 / counts[i.user] for i, c in zip(row.items, candidates, strict=True)],
                dtype=losses.dtype,
            )
            torch.autograd.backward(losses @ shares.to(losses.device))
        return now, losses.detach()

    @torch.no_grad()
    def take_step(
        self, group: Sequence[UserStep], gradient: torch.Tensor
    ) -> tuple[tuple[Rows, Rows, Rows], torch.Tensor]:
        """AdamW on copies of the users' gathered tensors. Returns these, and the norms before clipping, (K,)."""
        rule = self._learning
        tensors = self._slots.copies([step.slot for step in group])
        norms = clip_(gradient, rule.max_gradient_norm)
        lr = [scaled_lr(rule.lr, len(step.candidates), rule.pairs_per_step) for step in group]
        weights, exp_avg, exp_avg_sq = tensors
        adamw_step_(
            weights,
            gradient,
            exp_avg,
            exp_avg_sq,
            steps=[step.slot.optimizer_step + 1 for step in group],
            lr=lr,
            beta1=rule.beta1,
            beta2=rule.beta2,
            eps=rule.adam_eps,
        )
        self.progress += 1
        return tensors, norms

    def _measure(
        self,
        candidates: Sequence[Candidate],
        rows: Sequence[Row],
        weights: Rows,
        before: Sequence[torch.Tensor],
        due: Sequence[bool],
    ) -> dict[int, tuple[float, tuple[float, ...]]]:
        """Of each user who is due: drift per tail token, and the change of each pair's log pi(edited tail).

        What was rehearsed is no pair of the user's.
        """

        def wanted(item: Item, member: int) -> bool:
            return due[item.user] and not candidates[member].rehearsed

        if not any(due):
            return {}
        with _blaming(None):
            adapters = self._resident.lora.stack(weights)
        changes: dict[int, list[torch.Tensor]] = {user: [] for user, yes in enumerate(due) if yes}
        deltas: dict[int, dict[int, float]] = {user: {} for user in changes}
        for number, (row, then) in enumerate(zip(rows, before, strict=True)):
            if not any(map(wanted, row.items, row.members)):
                continue
            with _blaming(number):
                change = self._scored(row, adapters) - then
            chosen = row.sums(change)[0].tolist()
            for item, member, tail, delta in zip(row.items, row.members, row.tails(change), chosen, strict=True):
                if wanted(item, member):
                    changes[item.user].append(tail)
                    deltas[item.user][member] = delta
        return {
            user: (guard.drift_nats(torch.cat(tails)), tuple(deltas[user][member] for member in sorted(deltas[user])))
            for user, tails in changes.items()
        }

    def _scored(self, row: Row, adapters: StackedAdapters | None) -> torch.Tensor:
        tokens = self._resident.scored(row, adapters)
        self._count(row)
        return tokens

    def _count(self, row: Row) -> None:
        self.progress += 1
        self.tokens += row.tokens
        self.padding += row.padding

    def _rows(self, candidates: Sequence[Candidate], items: Sequence[Item], users: int) -> list[Row]:
        """Passages have rows of their own, which the guard leaves out, and in which no pair is padded to their length;
        but not where all is one packed row: shorter ones are slow.
        """
        collator = self._resident.collator
        if collator.shares_prefixes and sum(item.pair.tokens for item in items) <= self._row_tokens:
            return [collator.row(items, range(len(items)), users)]
        pairs = [member for member, candidate in enumerate(candidates) if not candidate.rehearsed]
        passages = [member for member, candidate in enumerate(candidates) if candidate.rehearsed]
        rows = itertools.chain(cut(items, pairs, self._row_tokens), cut(items, passages, self._row_tokens))
        return [collator.row(items, members, users) for members in rows]

    def _free_memory(self) -> None:
        self._slots.release()  # a smaller group needs less of it
        if self._resident.device.type == "cuda":
            torch.cuda.empty_cache()


def _flat(group: Sequence[UserStep]) -> tuple[list[Candidate], list[Item]]:
    candidates = [candidate for step in group for candidate in step.scored]
    items = [Item(user, candidate.pair) for user, step in enumerate(group) for candidate in step.scored]
    return candidates, items


def _pairs_of(sums: tuple[torch.Tensor, torch.Tensor]) -> list[Sums]:
    """One synchronisation with the device."""
    return [(chosen, rejected) for chosen, rejected in torch.stack(sums, dim=1).tolist()]


def _where_known(
    known: Sequence[Sums | None], otherwise: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The known sums of each pair, the given ones for the others; each (pairs,)."""
    mask = torch.tensor([sums is not None for sums in known])
    given = torch.tensor([sums or (0.0, 0.0) for sums in known], dtype=otherwise[0].dtype)
    mask, given = mask.to(otherwise[0].device), given.to(otherwise[0].device)
    return torch.where(mask, given[:, 0], otherwise[0]), torch.where(mask, given[:, 1], otherwise[1])


@contextlib.contextmanager
def _blaming(number: int | None) -> Iterator[None]:
    """Say which row the device could not hold."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise _RowTooLarge(number) from None
        raise
