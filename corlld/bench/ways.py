"""What is compared: ways to take the same step for each of some users."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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


def relative_difference(
    start: Sequence[torch.Tensor], own: Sequence[torch.Tensor], other: Sequence[torch.Tensor]
) -> float:
    """How far apart two ways have taken a user's adapter, relative to how far one has taken it: the worst user's."""
    return max(float((b - c).norm() / (b - a).norm()) for a, b, c in zip(start, own, other, strict=True))
