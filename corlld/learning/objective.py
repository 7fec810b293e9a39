"""The objective: from log-probabilities and the rule of the settings to one loss per pair.

It knows neither slots nor users, and of a row only its sums. To add a loss, write its function here, add it in
`Objective.losses`, and declare the setting that weighs it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from corlld.learning.loss import corll_loss, fall_loss, imitation_loss
from corlld.learning.model.packing import Row
from corlld.learning.model.vocabulary import TailSums
from corlld.settings.sections import LearningSettings

# A pair is saturated if sigma(-beta h), the weight of its gradient, is below this.
_SATURATED_WEIGHT = 0.1


class Sums(NamedTuple):
    """Log pi of a pair's tails, each summed over its tokens, in nats. rejected: 0 for a pair without that tail."""

    chosen: float
    rejected: float

    @property
    def preference(self) -> float:
        """The difference of the two, in nats: positive if the chosen tail is the more likely one."""
        return self.chosen - self.rejected


class PairSums(NamedTuple):
    """A pair's log pi under one model: over its tails, and over those of their tokens that the edit changes.

    changed: the tails' own sums if the rule does not ask for it.
    """

    tail: Sums
    changed: Sums


class RowSums(NamedTuple):
    """The same of n pairs, (n,) each."""

    tail: TailSums
    changed: TailSums


@dataclass(frozen=True, eq=False)
class ScoredPairs:
    """The scores of n pairs, as their loss needs them.

    policy: with a graph to differentiate through.
    base, previous: under the base model, and under the adapter as the micro-batch began. If None, the policy still
    equals that model, so its own scores are used.
    accepted: pairs that have a chosen tail alone. rehearsed: those of them that are passages of plain text.
    chosen_tokens: length of each chosen tail.
    """

    policy: RowSums
    base: Sequence[PairSums | None]
    previous: Sequence[PairSums | None]
    accepted: Sequence[bool]
    rehearsed: Sequence[bool]
    chosen_tokens: Sequence[int]


class Objective:
    """The loss that the settings ask for."""

    def __init__(self, rule: LearningSettings) -> None:
        self._rule = rule
        self._asks_for_changes = "changed" in (rule.margin, rule.imitation_tokens)
        self._saturated_margin = math.log(1 / _SATURATED_WEIGHT - 1) / rule.beta

    def sums(self, row: Row, token_logps: torch.Tensor) -> RowSums:
        """Sum the log-probabilities of a row's tail tokens, (N,), as the rule needs them."""
        tail = row.sums(token_logps)
        return RowSums(tail, row.changed_sums(token_logps) if self._asks_for_changes else tail)

    def losses(self, pairs: ScoredPairs) -> torch.Tensor:
        """Return what each pair adds to the mean of its user's step, (n,). A passage's loss is added to that mean."""
        rule, policy = self._rule, pairs.policy
        reference = _known(pairs.previous if rule.reference == "previous" else pairs.base, policy)
        by_changes = rule.margin == "changed"
        compared, against = (sums.changed if by_changes else sums.tail for sums in (policy, reference))
        losses = corll_loss(*compared, *against, beta=rule.beta, epsilon=rule.epsilon).losses
        device = losses.device
        tokens = torch.tensor(pairs.chosen_tokens, dtype=losses.dtype, device=device)
        if rule.anchor:
            losses = losses + fall_loss(policy.tail.chosen, reference.tail.chosen, tokens, rule.anchor)
        if rule.imitation_weight:
            imitated = policy.changed if rule.imitation_tokens == "changed" else policy.tail
            losses = losses + imitation_loss(imitated.chosen, rule.imitation_weight)
        if any(pairs.accepted):
            accepted = torch.tensor(pairs.accepted, device=device)
            losses = torch.where(accepted, imitation_loss(policy.tail.chosen, rule.acceptance_weight), losses)
        if any(pairs.rehearsed):
            rehearsed = torch.tensor(pairs.rehearsed, device=device)
            base = _known(pairs.base, policy).tail.chosen
            losses = torch.where(rehearsed, fall_loss(policy.tail.chosen, base, tokens, rule.rehearsal_weight), losses)
        return losses

    def margin(self, policy: PairSums, reference: PairSums) -> float:
        """Return a pair's margin h in nats, over the tokens that the rule compares."""
        if self._rule.margin == "changed":
            return policy.changed.preference - reference.changed.preference
        return policy.tail.preference - reference.tail.preference

    def is_saturated(self, margin: float) -> bool:
        """Return whether the gradient of a pair with this margin, in nats, has all but vanished."""
        return margin > self._saturated_margin


def _known(known: Sequence[PairSums | None], policy: RowSums) -> RowSums:
    """Return the known sums, and the policy's own, without a gradient, for the pairs that have none."""
    tail = _filled([sums and sums.tail for sums in known], policy.tail)
    if policy.changed is policy.tail:
        return RowSums(tail, tail)
    return RowSums(tail, _filled([sums and sums.changed for sums in known], policy.changed))


def _filled(known: Sequence[Sums | None], policy: TailSums) -> TailSums:
    chosen, rejected = policy.chosen.detach(), policy.rejected.detach()
    mask = torch.tensor([sums is not None for sums in known]).to(chosen.device)
    given = torch.tensor([sums or (0.0, 0.0) for sums in known], dtype=chosen.dtype).to(chosen.device)  # (n, 2)
    return TailSums(torch.where(mask, given[:, 0], chosen), torch.where(mask, given[:, 1], rejected))
