"""AdamW without weight decay, on one user's flat vectors."""

import torch

# torch.nn.utils.clip_grad_norm_ divides by norm + 1e-6; the same here, so that both agree to the last digit.
_NORM_EPS = 1e-6


def clip_(gradient: torch.Tensor, max_norm: float) -> torch.Tensor:
    """Scale `gradient`, shape (P,), down to `max_norm` in place. Returns its norm before, a scalar tensor."""
    norm: torch.Tensor = torch.linalg.vector_norm(gradient)
    gradient.mul_((max_norm / (norm + _NORM_EPS)).clamp(max=1.0))
    return norm


def adamw_step_(
    weights: torch.Tensor,
    gradient: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """One step in place, as `torch.optim.AdamW(weight_decay=0)` takes it. All tensors have shape (P,).

    step: number of this step, from 1. lr: already scaled to the size of the step.
    """
    exp_avg.lerp_(gradient, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = (exp_avg_sq.sqrt() / (1 - beta2**step) ** 0.5).add_(eps)
    weights.addcdiv_(exp_avg, denominator, value=-lr / (1 - beta1**step))


def scaled_lr(lr: float, pairs: int, pairs_per_step: int) -> float:
    """Adam moves about lr whatever the size of a step: without this, where batches are cut would decide the outcome."""
    return lr * pairs / pairs_per_step
