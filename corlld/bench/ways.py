"""What is compared: ways to take the same step for each of some users."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from corlld.settings import GuardSettings, LearningSettings

RULE = LearningSettings()
UNGUARDED = GuardSettings(every_steps=10**9)  # the peers have no guard; what it costs is a figure of its own
GUARDED = GuardSettings()


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of one round: an update of every user."""

    training: float
    construction: float = 0.0  # of what has to be made anew for each user


class Way(Protocol):
    """Keeps each user's adapter and optimizer state, and goes on from there with each round."""

    def round(self) -> Took:
        """One update of every user, all of it done when it returns."""

    def weights(self) -> Sequence[torch.Tensor]:
        """Each user's adapter now, flat in the layout's order, fp32 in host memory, shape (size,)."""


def settle(device: torch.device) -> None:
    """Wait for what the device was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def relative_difference(own: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """The largest distance of a user's two adapters, relative to the norm of the first one."""
    return max(float((a - b).norm() / a.norm()) for a, b in zip(own, other, strict=True))
