"""LoRA on the resident model: injected once, with the stacked tensors of K users bound for a pass.

The base model keeps its modules, names and parameters; a targeted module's `forward` is replaced. Tokens are sorted by
user, so that one product over all tokens serves the frozen base, and each user's low-rank term is added to the user's
own tokens. With nothing bound the base model alone is computed: that is the reference `base`.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import nn
from transformers.pytorch_utils import Conv1D

from corlld.adapters.layout import AdapterLayout, LoraModule, UserVectors
from corlld.errors import ConfigurationError
from corlld.learning.model.grouped import UserGroups, user_groups


def choose_modules(model: Any, target_modules: Literal["all-linear"] | Sequence[str]) -> tuple[LoraModule, ...]:
    """Return the linear modules that can carry LoRA, in the model's order.

    A module whose class computes in a way of its own (a router, a quantised layer) is not among them.

    Args:
        model: a transformers causal language model.
        target_modules: "all-linear" (all but the output head), or names as PEFT takes them: a module's whole path, or
            the end of it.

    Raises:
        ConfigurationError: a name fits no such module, or fits the output head. The message lists those that exist.
    """
    linear = {name: module for name, module in _linear(model) if has_plain_forward(module)}
    head = next((name for name, module in linear.items() if module is _output_head(model)), None)
    chosen = set(linear) - {head}
    if target_modules != "all-linear":
        for target in target_modules:
            if head is not None and fits(head, target):
                raise ConfigurationError(
                    f"adapter.target_modules: {target!r} is the output layer, which can carry no adapter; leave it out"
                )
            if not any(fits(name, target) for name in linear):
                raise ConfigurationError(f"adapter.target_modules: {_no_linear(model, target, linear)}")
        chosen = {name for name in chosen if any(fits(name, target) for target in target_modules)}
    if not chosen:
        raise ConfigurationError("adapter.target_modules: the model has no linear module to adapt")
    return tuple(_describe(name, module) for name, module in linear.items() if name in chosen)


def special_linears(model: Any, target_modules: Literal["all-linear"] | Sequence[str]) -> dict[str, str]:
    """Return the targeted linear modules that compute in a way of their own: the class's name by module name."""
    special = {name: type(m).__name__ for name, m in _linear(model) if not has_plain_forward(m)}
    if target_modules == "all-linear":
        return special
    return {name: kind for name, kind in special.items() if any(fits(name, target) for target in target_modules)}


def fits(name: str, target: str) -> bool:
    """Return whether a module of this name is meant by a name of `adapter.target_modules`."""
    return name == target or name.endswith(f".{target}")


def has_plain_forward(module: nn.Module) -> bool:
    """Return whether a module computes x W.T + bias and nothing else: a class that only inherits may do more."""
    return type(module).forward in (nn.Linear.forward, Conv1D.forward) and "forward" not in vars(module)


def _linear(model: Any) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]


def _output_head(model: Any) -> nn.Module | None:
    head: nn.Module | None = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return head


def _no_linear(model: Any, target: str, linear: Iterable[str]) -> str:
    for name, module in model.named_modules():
        if fits(name, target) and isinstance(module, nn.Embedding):
            return f"{target!r} is an embedding, which can carry no adapter; leave it out"
        if fits(name, target) and isinstance(module, nn.Linear | Conv1D):
            return f"{target!r} is a {type(module).__name__}, which computes in a way of its own and can't be adapted"
    exist = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
    return f"the model has no linear {target!r}; it has {exist}"


def _describe(name: str, module: nn.Module) -> LoraModule:
    if isinstance(module, Conv1D):
        rows, columns = module.weight.shape
        return LoraModule(name, in_features=rows, out_features=columns, transposed=True)
    assert isinstance(module, nn.Linear)  # noqa: S101 - for the type checker
    return LoraModule(name, in_features=module.in_features, out_features=module.out_features)


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
