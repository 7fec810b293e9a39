"""AdamW without weight decay, on the stacked flat vectors of K users: each has its own step, lr and clipped norm.

Not `torch.optim` over the slots: users without a gradient would drift on their momentum.
"""

import torch

# torch.nn.utils.clip_grad_norm_ divides by norm + 1e-6; the same here, so that both agree to the last digit.
_NORM_EPS = 1e-6


def clip_(gradient: torch.Tensor, max_norm: float) -> torch.Tensor:
    """Scale each user's row of `gradient`, (K, P), down to `max_norm` in place. Returns the norms before, (K,)."""
    norms: torch.Tensor = torch.linalg.vector_norm(gradient, dim=1)
    gradient.mul_((max_norm / (norms + _NORM_EPS)).clamp(max=1.0)[:, None])
    return norms


def adamw_step_(
    weights: torch.Tensor,
    gradient: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    *,
    steps: torch.Tensor,
    lr: torch.Tensor,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """One step of each user in place, as `torch.optim.AdamW(weight_decay=0)` takes it.

    Args:
        weights, gradient, exp_avg, exp_avg_sq: shape (K, P); the gradient is used up.
        steps: number of each user's step, from 1, float64, (K,).
        lr: already scaled to the size of the step, float64, (K,).
        beta1, beta2, eps: as the optimizer's.
    """

    def each(values: torch.Tensor) -> torch.Tensor:
        return values.to(weights)[:, None]

    exp_avg.lerp_(gradient, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = torch.sqrt(exp_avg_sq, out=gradient)
    denominator.div_(each((1 - beta2**steps).sqrt())).add_(eps)
    weights.sub_(torch.div(exp_avg, denominator, out=denominator).mul_(each(lr / (1 - beta1**steps))))


def scaled_lr(lr: float, pairs: int, pairs_per_step: int) -> float:
    """Adam moves about lr whatever the size of a step: without this, where batches are cut would decide the outcome."""
    return lr * pairs / pairs_per_step
