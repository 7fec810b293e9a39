"""The trust region: what a step may not do. A step that did it is undone bit for bit by the caller."""

import torch


def all_finite(*tensors: torch.Tensor) -> bool:
    """Whether every number is finite. One synchronisation with the device."""
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


def drift_nats(before: torch.Tensor, after: torch.Tensor) -> float:
    """Mean |log pi_after - log pi_before| per tail token in nats, from token log-probabilities of shape (N,).

    NaN where either has a number that is not finite: then no limit holds, see `within`.
    """
    return float((after - before).abs().mean())


def within(drift: float, max_drift_nats: float) -> bool:
    """Whether the drift is allowed; False for NaN."""
    return drift <= max_drift_nats


def is_due(step: int, every_steps: int) -> bool:
    """Whether the drift of a user's step number `step` (from 1) is measured."""
    return step % every_steps == 0
