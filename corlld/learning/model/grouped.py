"""Products of each user's own factor with the user's own tokens, for T tokens of K users. A user's tokens lie together.

There are two ways, whose results differ by rounding alone: a loop of small products over views, and one grouped kernel
for all users.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

# A grouped kernel wants the rows of all it multiplies to begin at such a multiple.
_GROUPED_ALIGNMENT_BYTES = 16


class UserGroups(Protocol):
    """The products of a pass: of `x`, (T, .), with stacked factors, (K, ., .)."""

    def products(self, x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Return x[k] @ factors[k].T for each user k, shape (T, rows of a factor)."""

    def add_products_(self, out: torch.Tensor, x: torch.Tensor, factors: torch.Tensor) -> None:
        """Add x[k] @ factors[k].T to out[k]."""

    def add_outer_(self, out: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float = 1.0) -> None:
        """Add scale * left[k].T @ right[k] to out[k]. out: (K, ., .). left (the thin one), right: (T, .)."""


def user_groups(tokens: Sequence[int], device: torch.device, dtype: torch.dtype, widths: Iterable[int]) -> UserGroups:
    """Choose the way for the device that a pass runs on.

    Args:
        tokens: how many each user has, in the users' order; 0 for a user who has none in this pass.
        device, dtype: of the base model.
        widths: the rank, and the modules' widths of input and output.
    """
    aligned = all(width * dtype.itemsize % _GROUPED_ALIGNMENT_BYTES == 0 for width in widths)
    if device.type == "cuda" and dtype == torch.bfloat16 and aligned:
        return KernelGroups(tokens, device)
    return LoopGroups(tokens)


class LoopGroups:
    """One small product after the other.

    On a CPU nothing is faster: a padded batch, or all users' factors side by side, compute what nobody needs.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)
        self._present = [user for user, count in enumerate(tokens) if count]

    def products(self, x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        out = x.new_empty(x.shape[0], factors.shape[1])
        own, outs, turned = self._own(x), self._own(out), factors.mT.unbind()
        for user in self._present:
            torch.mm(own[user], turned[user], out=outs[user])
        return out

    def add_products_(self, out: torch.Tensor, x: torch.Tensor, factors: torch.Tensor) -> None:
        own, outs, turned = self._own(x), self._own(out), factors.mT.unbind()
        for user in self._present:
            outs[user].addmm_(own[user], turned[user])

    def add_outer_(self, out: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float = 1.0) -> None:
        thin, own, outs = self._own(left.mT, dim=1), self._own(right), out.unbind()
        for user in self._present:
            outs[user].add_(thin[user] @ own[user], alpha=scale)

    def _own(self, t: torch.Tensor, dim: int = 0) -> tuple[torch.Tensor, ...]:
        """Split `t` by user. One call makes all views: a call for each of so many small products would show."""
        return torch.split(t, self._tokens, dim)


class KernelGroups:
    """One kernel for all users (`torch.nn.functional.grouped_mm`)."""

    def __init__(self, tokens: Sequence[int], device: torch.device) -> None:
        self._ends = torch.tensor(list(accumulate(tokens)), dtype=torch.int32, device=device)

    def products(self, x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        return F.grouped_mm(x, factors.mT, offs=self._ends)

    def add_products_(self, out: torch.Tensor, x: torch.Tensor, factors: torch.Tensor) -> None:
        out.add_(self.products(x, factors))

    def add_outer_(self, out: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float = 1.0) -> None:
        out.add_(F.grouped_mm(left.mT, right, offs=self._ends), alpha=scale)
