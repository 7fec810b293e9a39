"""AdamW without weight decay, on the stacked flat vectors of K users: each has its own step, lr and clipped norm.

Not `torch.optim` over the slots: users without a gradient would drift on their momentum.
"""

from collections.abc import Sequence

import torch
from torch.optim.adamw import adamw

from corlld.adapters.layout import UserVectors

# torch.nn.utils.clip_grad_norm_ divides by norm + 1e-6; the same here, so that both agree to the last digit.
_NORM_EPS = 1e-6


def clip_(gradient: torch.Tensor, max_norm: float) -> torch.Tensor:
    """Scale each user's vector in `gradient`, (K, P), down to `max_norm` in place. Return the earlier norms, (K,)."""
    norms: torch.Tensor = torch.linalg.vector_norm(gradient, dim=1)
    gradient.mul_((max_norm / (norms + _NORM_EPS)).clamp(max=1.0)[:, None])
    return norms


def adamw_step_(
    weights: UserVectors,
    gradient: UserVectors,
    exp_avg: UserVectors,
    exp_avg_sq: UserVectors,
    *,
    steps: Sequence[int],
    lr: Sequence[float],
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """Take one step per user in place. torch's own kernel passes over the tensors once.

    Args:
        weights, gradient, exp_avg, exp_avg_sq: K users' vectors.
        steps: the number of each user's step, from 1.
        lr: the learning rate of each user, already scaled to the size of the step.
        beta1, beta2, eps: AdamW's own.
    """
    for user, (step, rate) in enumerate(zip(steps, lr, strict=True)):
        adamw(
            [weights[user]],
            [gradient[user]],
            [exp_avg[user]],
            [exp_avg_sq[user]],
            [],
            # The kernel counts the step itself.
            [torch.tensor(float(step - 1), device=weights[user].device)],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=rate,
            weight_decay=0.0,
            eps=eps,
            maximize=False,
        )


def scaled_lr(lr: float, pairs: int, pairs_per_step: int) -> float:
    """Return the learning rate of a step of `pairs` pairs.

    Adam moves about lr whatever the size of a step. Unscaled, the cuts between batches would decide the outcome.
    """
    return lr * pairs / pairs_per_step
