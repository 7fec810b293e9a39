"""LoRA on the resident model: injected once, with the stacked tensors of K users bound for a pass.

The base model keeps its modules, names and parameters; a targeted module's `forward` is replaced. Tokens are sorted by
user, so that one product over all tokens serves the frozen base, and each user's low-rank term is added to the user's
own tokens. With nothing bound the base model alone is computed: that is the reference `base`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import nn

from corlld.adapters.layout import AdapterLayout, UserVectors
from corlld.learning.model.grouped import UserGroups, user_groups


@dataclass(frozen=True, eq=False)
class StackedAdapters:
    """Factors of K users for each module, in the layout's order, as a pass uses them.

    factors: A, (K, r, in), and B transposed, (K, r, out), in the base model's dtype. B is scaled by lora_alpha / r.
    gradients: of A, (K, r, in), and of B, (K, out, r), in the adapters' own dtype: a backward pass adds to them. None
    for passes without gradient.
    """

    factors: list[tuple[torch.Tensor, torch.Tensor]]
    gradients: list[tuple[torch.Tensor, torch.Tensor]] | None


@dataclass(frozen=True, eq=False)
class _Bound:
    adapters: StackedAdapters
    groups: UserGroups
    tokens: int


class StackedLora:
    """The injected layers. Made once per model; `bind` chooses whose tensors the next passes use.

    Args:
        model: the base model, whose parameters must be frozen already.
        layout: the modules that carry LoRA, in order.
    """

    def __init__(self, model: nn.Module, layout: AdapterLayout) -> None:
        self.layout = layout
        self._bound: _Bound | None = None
        self._dtype = next(model.parameters()).dtype
        self._device = next(model.parameters()).device
        self._widths = {layout.r} | {
            width for site in layout.modules for width in (site.in_features, site.out_features)
        }
        # Makes autograd call the first layers' backward: their input has no gradient, but their adapters have.
        self._wants_gradient = torch.zeros((), device=self._device, dtype=self._dtype, requires_grad=True)
        for index, site in enumerate(layout.modules):
            module = model.get_submodule(site.name)
            module.forward = self._forward(index, module, module.forward)

    def _forward(self, index: int, module: Any, base: Any) -> Any:
        transposed = self.layout.modules[index].transposed
        scale = self.layout.scaling

        def forward(x: torch.Tensor) -> torch.Tensor:
            bound = self._bound
            if bound is None:
                plain: torch.Tensor = base(x)
                return plain
            flat = x.reshape(-1, x.shape[-1])
            if flat.shape[0] != bound.tokens:
                raise ValueError(f"a module with an adapter saw {flat.shape[0]} of {bound.tokens} tokens")
            a, b = bound.adapters.factors[index]
            gradients = bound.adapters.gradients[index] if bound.adapters.gradients is not None else None
            weight = module.weight.mT if transposed else module.weight
            y: torch.Tensor = _LoraLinear.apply(
                flat, self._wants_gradient, weight, module.bias, a, b, gradients, bound.groups, scale
            )
            return y.view(*x.shape[:-1], y.shape[-1])

        return forward

    @contextlib.contextmanager
    def bind(self, adapters: StackedAdapters | None, tokens: Sequence[int] = ()) -> Iterator[None]:
        """Use these adapters for the passes inside, backward ones included.

        Args:
            adapters: factors of K users; None for the base model alone.
            tokens: how many tokens of the pass each user has, in order.
        """
        before = self._bound
        self._bound = None
        if adapters is not None:
            groups = user_groups(tokens, self._device, self._dtype, self._widths)
            self._bound = _Bound(adapters, groups, sum(tokens))
        try:
            yield
        finally:
            self._bound = before

    def stack(self, weights: UserVectors, gradient: torch.Tensor | None = None) -> StackedAdapters:
        """Return the users' factors for passes, whose gradients will be added to `gradient`, (K, layout.size).

        With `gradient` None a backward pass raises RuntimeError.
        """
        users = [weights] if isinstance(weights, torch.Tensor) else [vector[None] for vector in weights]
        factors = [
            (
                torch.cat([a for a, _ in own]).to(self._dtype),
                torch.cat([(b.mT * self.layout.scaling).to(self._dtype) for _, b in own]),
            )
            for own in zip(*map(self.layout.stacked, users), strict=True)
        ]
        return StackedAdapters(factors, None if gradient is None else list(self.layout.stacked(gradient)))


class _LoraLinear(torch.autograd.Function):
    """Compute y = x W.T + bias + (x A.T) B.T, where each user's tokens meet the user's own A and B.

    One function computes base and adapter: it adds the thin products in place to the base's output and to the input's
    gradient. Separate operations would each pass over arrays as wide as the layer.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        _wants_gradient: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        gradients: tuple[torch.Tensor, torch.Tensor] | None,
        groups: UserGroups,
        scale: float,
    ) -> torch.Tensor:
        y = F.linear(x, weight, bias)  # (T, out)
        down = groups.products(x, a)  # (T, r)
        groups.add_products_(y, down, b.mT)
        ctx.save_for_backward(x, down, weight, a, b)
        ctx.gradients, ctx.groups, ctx.scale = gradients, groups, scale
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, down, weight, a, b = ctx.saved_tensors
        groups: UserGroups = ctx.groups
        if ctx.gradients is None:
            raise RuntimeError("a backward pass through adapters that were stacked without gradients")
        gradient_a, gradient_b = ctx.gradients
        up = groups.products(gradient, b)  # (T, r), by the scaled B
        groups.add_outer_(gradient_a, up, x)
        groups.add_outer_(gradient_b.mT, down, gradient, ctx.scale)
        below = None
        if ctx.needs_input_grad[0]:
            below = gradient @ weight  # (T, in)
            groups.add_products_(below, up, a.mT)
        return below, *(None,) * 8
