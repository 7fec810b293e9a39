"""Gated activations, act(gate) * up, that keep their two inputs alone.

What is between the inputs, and the product itself, is computed again in the backward pass: that saves a third of a
layer's memory. A module is changed only if it computes just that.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

Activation = Callable[[torch.Tensor], torch.Tensor]
_PARTS = ("gate_proj", "up_proj", "down_proj", "act_fn")


def fuse_gates(model: nn.Module, *, keep_product: bool = False) -> int:
    """Replace the `forward` of each gated feed-forward module of the known form. Return how many were replaced.

    keep_product: for models whose layers are computed again as a whole. Nothing of such a layer is kept; without this
        the two factors of its product would be.
    """
    fused = 0
    for module in model.modules():
        if all(hasattr(module, part) for part in _PARTS) and _is_known(module):
            module.forward = _forward(module, keep_product)
            fused += 1
    return fused


def gated(gate: torch.Tensor, up: torch.Tensor, activation: Activation) -> torch.Tensor:
    """Return act(gate) * up, elementwise."""
    y: torch.Tensor = _Gated.apply(gate, up, activation)
    return y


def _forward(module: Any, keep_product: bool) -> Activation:
    # Not the module itself: a hook on all modules' calls must not see a call amid the backward pass.
    activation = getattr(module.act_fn, "forward", module.act_fn)

    def forward(x: torch.Tensor) -> torch.Tensor:
        gate, up = module.gate_proj(x), module.up_proj(x)
        product = gated(gate, up, activation)
        notes: AbstractContextManager[object] = nullcontext()
        if not keep_product:
            notes = _kept_as_its_factors(product, gate.detach(), up.detach(), activation)
        with notes:
            y: torch.Tensor = module.down_proj(product)
        return y

    return forward


def _kept_as_its_factors(
    product: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, activation: Activation
) -> torch.autograd.graph.saved_tensors_hooks:
    """Make what is called inside keep a note to compute `product` again, in place of `product` or a view of it."""
    place = product.data_ptr()

    def pack(tensor: torch.Tensor) -> torch.Tensor | torch.Size:
        return tensor.shape if tensor.data_ptr() == place and tensor.numel() == gate.numel() else tensor

    def unpack(kept: torch.Tensor | torch.Size) -> torch.Tensor:
        return (activation(gate) * up).view(kept) if isinstance(kept, torch.Size) else kept

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


@torch.no_grad()
def _is_known(module: Any) -> bool:
    weight = getattr(module.gate_proj, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or weight.device.type == "meta":
        return False
    x = torch.linspace(-2, 2, 2 * weight.shape[1], device=weight.device).reshape(1, 2, -1).to(weight.dtype)
    return torch.equal(module(x), _forward(module, keep_product=True)(x))


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, activation: Activation) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return activation(gate) * up

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            inside = gate.detach().requires_grad_()
            active = ctx.activation(inside)
        (of_gate,) = torch.autograd.grad(active, inside, gradient * up)
        return of_gate, gradient * active.detach(), None
