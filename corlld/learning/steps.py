"""Optimizer steps of several users at once: train, measure, and keep only what the guard allows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from corlld.errors import RejectReason
from corlld.learning import guard
from corlld.learning.model.packing import Item
from corlld.learning.model.resident import ResidentModel
from corlld.learning.objective import Objective
from corlld.learning.optimizer import adamw_step_, clip_, scaled_lr
from corlld.learning.passes import Group, Passes, blaming
from corlld.learning.slots import Slots, StepTensors
from corlld.learning.start_adapter import References
from corlld.learning.user_step import StepResult, UserStep, by_user, mean_loss
from corlld.settings.sections import GuardSettings, LearningSettings


class AdamStep(NamedTuple):
    """K users' new tensors, which no slot has yet. norms: of their gradients before clipping, (K,)."""

    tensors: StepTensors
    norms: torch.Tensor


@dataclass(frozen=True, eq=False)
class _Trained:
    """A step that was taken and is not kept yet, with the figures of its passes.

    before: log pi of each row's tail tokens before the step, (N,) each.
    losses, norms, finite: of each user. A user's step is finite if loss, gradient and new tensors are.
    """

    tensors: StepTensors
    before: Sequence[torch.Tensor]
    losses: Sequence[float]
    norms: Sequence[float]
    finite: Sequence[bool]


@dataclass(frozen=True, slots=True)
class _Change:
    """The change that a user's step made. delta_chosen_logps: by pair, of the edited tail's log pi, in nats."""

    drift_nats: float
    delta_chosen_logps: tuple[float, ...]


class StepRunner:
    """Takes steps on users' slots.

    Args:
        resident: the base model with its injected LoRA.
        slots: the users' places.
        learning: the rule.
        objective: the loss that the rule asks for.
        guard_settings: when a step is undone.
        row_tokens, references: see `Passes`.
    """

    def __init__(
        self,
        resident: ResidentModel,
        slots: Slots,
        learning: LearningSettings,
        objective: Objective,
        guard_settings: GuardSettings,
        row_tokens: int,
        references: References,
    ) -> None:
        self._resident = resident
        self._slots = slots
        self._learning = learning
        self._guard = guard_settings
        self.passes = Passes(resident, slots, objective, row_tokens, references)
        self._steps = 0  # taken so far

    @property
    def progress(self) -> int:
        """Rows run and steps taken so far. Read by other threads."""
        return self.passes.rows + self._steps

    def run(self, steps: Sequence[UserStep]) -> list[StepResult]:
        """Take one step per user, and return the results in order.

        If `candidate.base` is None, the policy still equals the base model, so its own scores are used; likewise for
        `previous`.
        """
        return self.passes.take_steps(steps, self._attempt)

    def _attempt(self, group: Group) -> list[StepResult]:
        trained = self._train(group)
        due = [
            finite and guard.is_due(step.slot.optimizer_step + 1, self._guard.every_steps)
            for step, finite in zip(group.steps, trained.finite, strict=True)
        ]
        changes = self._measure(group, trained, due)
        return [self._settle(step, user, trained, changes.get(user)) for user, step in enumerate(group.steps)]

    def _train(self, group: Group) -> _Trained:
        with blaming(None):
            weights, gradient = self._slots.gather([step.slot for step in group.steps])
            adapters = self._resident.lora.stack(weights, gradient)
        before, losses = self.passes.train(group, adapters)
        with blaming(None):
            tensors, norms = self.take_step(group.steps, gradient)
            finite = guard.all_finite(*tensors, norms[:, None]).tolist()
        means = [mean_loss(own, part) for own, part in zip(group.pairs, by_user(losses, group.steps), strict=True)]
        finite = [good and math.isfinite(mean) for good, mean in zip(finite, means, strict=True)]
        return _Trained(tensors, before, means, norms.tolist(), finite)

    @torch.no_grad()
    def take_step(self, users: Sequence[UserStep], gradient: torch.Tensor) -> AdamStep:
        """Clip the gradient, (K, P), in place, and take an AdamW step on copies of the users' gathered tensors."""
        rule = self._learning
        tensors = self._slots.copies([step.slot for step in users])
        norms = clip_(gradient, rule.max_gradient_norm)
        adamw_step_(
            tensors.weights,
            gradient,
            tensors.exp_avg,
            tensors.exp_avg_sq,
            steps=[step.slot.optimizer_step + 1 for step in users],
            lr=[scaled_lr(rule.lr, len(step.candidates), rule.pairs_per_step) for step in users],
            beta1=rule.beta1,
            beta2=rule.beta2,
            eps=rule.adam_eps,
        )
        self._steps += 1
        return AdamStep(tensors, norms)

    def _measure(self, group: Group, trained: _Trained, due: Sequence[bool]) -> dict[int, _Change]:
        """Return the changes of the users who are due, by number. They are of the new pairs alone."""

        def wanted(item: Item, member: int) -> bool:
            return due[item.user] and group.candidates[member].is_new

        if not any(due):
            return {}
        with blaming(None):
            adapters = self._resident.lora.stack(trained.tensors.weights)
        changes: dict[int, list[torch.Tensor]] = {user: [] for user, yes in enumerate(due) if yes}
        deltas: dict[int, dict[int, float]] = {user: {} for user in changes}
        for number, (row, before) in enumerate(zip(group.rows, trained.before, strict=True)):
            if not any(map(wanted, row.items, row.members)):
                continue
            with blaming(number):
                change = self.passes.scored(row, adapters) - before  # (N,)
            chosen = row.sums(change).chosen.tolist()
            for item, member, tails, delta in zip(row.items, row.members, row.tails(change), chosen, strict=True):
                if wanted(item, member):
                    changes[item.user].append(tails)
                    deltas[item.user][member] = delta
        return {
            user: _Change(
                guard.drift_nats(torch.cat(tails)), tuple(deltas[user][member] for member in sorted(deltas[user]))
            )
            for user, tails in changes.items()
        }

    def _settle(self, step: UserStep, user: int, trained: _Trained, change: _Change | None) -> StepResult:
        """Keep what the user's step did, unless the guard forbids it."""
        if not trained.finite[user]:
            return StepResult(RejectReason.NON_FINITE)
        if change is not None and not guard.within(change.drift_nats, self._guard.max_drift_nats):
            return StepResult(RejectReason.DRIFT if math.isfinite(change.drift_nats) else RejectReason.NON_FINITE)
        self._slots.commit(step.slot, trained.tensors.of(user), step.slot.optimizer_step + 1)
        return StepResult(
            failure=None,
            loss=trained.losses[user],
            gradient_norm=trained.norms[user],
            drift_nats=None if change is None else change.drift_nats,
            delta_chosen_logps=None if change is None else change.delta_chosen_logps,
            plain_text_drop_nats=step.plain_text_drop_nats,
        )
