"""What is compared: ways to take the same step for each of some users."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from corlld.settings.sections import GuardSettings, LearningSettings

# Without what the peers don't do: the cost of rehearsal is a figure of its own.
RULE = LearningSettings(rehearsal_weight=0.0)
REHEARSING = LearningSettings()  # the rule's defaults
# The peers have no guard, and refuse no edit; what it costs is a figure of its own.
UNGUARDED = GuardSettings(every_steps=10**9, max_repetition_rise=1.0)
# Its pass, not its verdict: the same pairs are trained again and again.
GUARDED = GuardSettings(max_drift_nats=1e9, max_repetition_rise=1.0)


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of one round: an update of every user."""

    training: float
    construction: float = 0.0  # of what has to be made anew for each user


class Timed(Protocol):
    """Something that can be done again and again, and is timed."""

    def round(self) -> Took:
        """Do it, all of it being done on return."""


@runtime_checkable
class Way(Timed, Protocol):
    """A round is one update of every user, each going on from the adapter and the optimizer state of the one before."""

    def weights(self) -> Sequence[torch.Tensor]:
        """Each user's adapter now, flat in the layout's order, fp32 in host memory, shape (size,)."""


def settle(device: torch.device) -> None:
    """Wait for what the device was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def relative_differences(
    start: Sequence[torch.Tensor], own: Sequence[torch.Tensor], other: Sequence[torch.Tensor]
) -> tuple[float, float]:
    """How far apart two ways took the worst user's adapter: relative to its norm, and to how far it went."""
    apart = [(b - c).norm() for b, c in zip(own, other, strict=True)]
    of_weights = max(float(d / b.norm()) for d, b in zip(apart, own, strict=True))
    of_step = max(float(d / (b - a).norm()) for d, a, b in zip(apart, start, own, strict=True))
    return of_weights, of_step
