"""RMS norms as one autograd function.

transformers' own chain of operations passes over the activations a dozen times, and keeps several of its results for
the backward pass. A norm is replaced only if that computes the same.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

# By how much a form may differ from the module's own output, relatively; forms that are mixed up are off by far more.
_TOLERANCE = {torch.bfloat16: 0.02, torch.float16: 0.005}


def fuse_norms(model: nn.Module) -> int:
    """Replace the `forward` of each RMS norm whose form is known. Return how many were replaced."""
    fused = 0
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and (forward := _fused_forward(module)) is not None:
            module.forward = forward
            fused += 1
    return fused


@torch.no_grad()
def _fused_forward(norm: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return the norm as one function; None if it computes something else.

    It is tried out with other weights than its own. A new norm's are all 1, and would hide that some norms ignore them.
    """
    weight = getattr(norm, "weight", None)
    eps = getattr(norm, "eps", getattr(norm, "variance_epsilon", None))
    if not isinstance(weight, torch.Tensor) or weight.ndim != 1 or not isinstance(eps, float):
        return None
    if weight.device.type == "meta":
        return None
    wide = torch.promote_types(weight.dtype, torch.float32)
    sample = torch.linspace(-2, 3, 4 * weight.numel(), device=weight.device).reshape(4, -1).to(weight.dtype)
    other = torch.linspace(0.5, 1.5, weight.numel(), device=weight.device).to(weight.dtype)
    expected = functional_call(norm, {"weight": other}, (sample,))
    tolerance = _TOLERANCE.get(weight.dtype, 1e-4)
    for offset in (0.0, 1.0):  # Llama and its kin; Gemma, whose weights are stored as differences from 1
        found = rms_norm(sample, other.to(wide) + offset, eps)
        if torch.allclose(found, expected, rtol=tolerance, atol=tolerance):
            return partial(rms_norm, scale=weight.detach().to(wide) + offset, eps=eps)
    return None


def rms_norm(x: torch.Tensor, scale: torch.Tensor, eps: float) -> torch.Tensor:
    """Return x / rms(x) * scale over the last dimension, computed in `scale`'s dtype and rounded once to that of `x`.

    x: (..., width). scale: (width,), frozen, float32 or wider.
    """
    y: torch.Tensor = _RmsNorm.apply(x, scale, eps)
    return y


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.to(scale.dtype)  # products of two dtypes are far slower on a CPU than a copy
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, inverse, scale)
        y = wide * inverse if wide is x else wide.mul_(inverse)
        return y.mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        x, inverse, scale = ctx.saved_tensors
        wide = x.to(scale.dtype)
        scaled = gradient.to(scale.dtype) * scale
        along = (scaled * wide).sum(-1, keepdim=True).mul_(inverse**3).div_(-x.shape[-1])
        return scaled.mul_(inverse).addcmul_(wide, along).to(x.dtype), None, None
