"""The protocol of what is compared: ways to take the same step for each of some users."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from corlld.settings.sections import GuardSettings, LearningSettings

# The peers' rule is DPO's: the margin over whole tails, and nothing is imitated or rehearsed. The cost of rehearsal is
# a figure of its own.
RULE = LearningSettings(margin="tail", imitation_weight=0.0, rehearsal_weight=0.0)
REHEARSING = RULE.model_copy(update={"rehearsal_weight": LearningSettings().rehearsal_weight})
# The peers have no guard, and refuse no edit; the cost of the guard is a figure of its own.
UNGUARDED = GuardSettings(every_steps=10**9, max_repetition_rise=1.0)
# The guard makes its pass but refuses nothing, since the same pairs are trained again and again.
GUARDED = GuardSettings(max_drift_nats=1e9, max_repetition_rise=1.0)


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of one round: an update of every user."""

    training: float
    construction: float = 0.0  # of what has to be made again for each user


class Timed(Protocol):
    """Work that can be repeated, and is timed."""

    def round(self) -> Took:
        """Do the work. All of it is finished on return."""


@runtime_checkable
class Way(Timed, Protocol):
    """A way to update users.

    A round updates every user once, from the adapter and optimizer state of the round before.
    """

    def weights(self) -> Sequence[torch.Tensor]:
        """Return each user's adapter now, flat in the layout's order, fp32 in host memory, shape (size,)."""


def settle(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def relative_differences(
    start: Sequence[torch.Tensor], own: Sequence[torch.Tensor], other: Sequence[torch.Tensor]
) -> tuple[float, float]:
    """Return the distance of the adapters of two ways: relative to the norm, and to the step. The worst user counts."""
    apart = [(b - c).norm() for b, c in zip(own, other, strict=True)]
    of_weights = max(float(d / b.norm()) for d, b in zip(apart, own, strict=True))
    of_step = max(float(d / (b - a).norm()) for d, a, b in zip(apart, start, own, strict=True))
    return of_weights, of_step
