"""The objective: from log-probabilities and the rule of the settings to one loss per pair.

It knows neither rows nor slots nor users. To add a loss, write its function here, add it in `Objective.losses`, and
declare the setting that weighs it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from corlld.learning.loss import acceptance_loss, corll_loss, rehearsal_loss
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


@dataclass(frozen=True, eq=False)
class ScoredPairs:
    """The scores of n pairs, as their loss needs them.

    policy: with a graph to differentiate through.
    base, previous: under the base model, and under the adapter as the micro-batch began. If None, the policy still
    equals that model, so its own scores are used.
    accepted: pairs that have a chosen tail alone. rehearsed: those of them that are passages of plain text.
    chosen_tokens: length of each chosen tail.
    """

    policy: TailSums
    base: Sequence[Sums | None]
    previous: Sequence[Sums | None]
    accepted: Sequence[bool]
    rehearsed: Sequence[bool]
    chosen_tokens: Sequence[int]


class Objective:
    """The loss that the settings ask for."""

    def __init__(self, rule: LearningSettings) -> None:
        self._rule = rule
        self._saturated_margin = math.log(1 / _SATURATED_WEIGHT - 1) / rule.beta

    def losses(self, pairs: ScoredPairs) -> torch.Tensor:
        """Return what each pair adds to the mean of its user's step, (n,). A passage's loss is added to that mean."""
        rule, policy = self._rule, pairs.policy
        reference = _known(pairs.previous if rule.reference == "previous" else pairs.base, policy)
        losses = corll_loss(
            *policy,
            *reference,
            beta=rule.beta,
            epsilon=rule.epsilon,
            anchor=rule.anchor,
            imitation=rule.imitation_weight,
        ).losses
        device = losses.device
        if any(pairs.accepted):
            accepted = torch.tensor(pairs.accepted, device=device)
            losses = torch.where(accepted, acceptance_loss(policy.chosen, rule.acceptance_weight), losses)
        if any(pairs.rehearsed):
            rehearsed = torch.tensor(pairs.rehearsed, device=device)
            base = _known(pairs.base, policy).chosen
            tokens = torch.tensor(pairs.chosen_tokens, device=device)
            losses = torch.where(rehearsed, rehearsal_loss(policy.chosen, base, tokens, rule.rehearsal_weight), losses)
        return losses

    def is_saturated(self, margin: float) -> bool:
        """Return whether the gradient of a pair with this margin, in nats, has all but vanished."""
        return margin > self._saturated_margin


def _known(known: Sequence[Sums | None], policy: TailSums) -> TailSums:
    """Return the known sums, and the policy's own, without a gradient, for the pairs that have none; each (n,)."""
    chosen, rejected = policy.chosen.detach(), policy.rejected.detach()
    mask = torch.tensor([sums is not None for sums in known]).to(chosen.device)
    given = torch.tensor([sums or (0.0, 0.0) for sums in known], dtype=chosen.dtype).to(chosen.device)  # (n, 2)
    return TailSums(torch.where(mask, given[:, 0], chosen), torch.where(mask, given[:, 1], rejected))
