"""LoRA on the resident model: injected once, with one user's tensors bound at a time.

The base model keeps its modules, names and parameters: the low-rank term is added by a forward hook. Nothing here flips
`requires_grad`: with no adapter bound the hooks add nothing, and that is the reference `base`.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from corlld.errors import ConfigurationError
from corlld.learning.adapter import AdapterLayout, AdapterTensors, LoraModule

Weights = list[tuple[torch.Tensor, torch.Tensor]]  # A (r, in) and B (out, r) of each module, in the layout's order


def choose_modules(model: Any, target_modules: Literal["all-linear"] | Sequence[str]) -> tuple[LoraModule, ...]:
    """The linear modules that carry LoRA, in the model's order.

    Args:
        model: a transformers causal language model.
        target_modules: "all-linear" (all but the output head), or names as PEFT takes them: a module's whole path, or
            the end of it.

    Raises:
        ConfigurationError: a name that fits no linear module; it lists those that exist.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    if target_modules == "all-linear":
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        chosen = {name for name, module in linear.items() if module is not head}
    else:
        chosen = set()
        for target in target_modules:
            fitting = {name for name in linear if name == target or name.endswith(f".{target}")}
            if not fitting:
                exist = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
                raise ConfigurationError(f"adapter.target_modules: the model has no linear {target!r}; it has {exist}")
            chosen |= fitting
    if not chosen:
        raise ConfigurationError("adapter.target_modules: the model has no linear module to adapt")
    return tuple(_describe(name, module) for name, module in linear.items() if name in chosen)


def _describe(name: str, module: nn.Module) -> LoraModule:
    if isinstance(module, Conv1D):
        rows, columns = module.weight.shape
        return LoraModule(name, in_features=rows, out_features=columns, transposed=True)
    assert isinstance(module, nn.Linear)  # noqa: S101 - for the type checker
    return LoraModule(name, in_features=module.in_features, out_features=module.out_features)


class StackedLora:
    """The injected hooks. Made once for a model; `bind` says whose tensors the next passes use.

    Args:
        model: its parameters must be frozen already.
        layout: which modules, in which order.
    """

    def __init__(self, model: nn.Module, layout: AdapterLayout) -> None:
        self.layout = layout
        self._bound: Weights | None = None
        for index, site in enumerate(layout.modules):
            model.get_submodule(site.name).register_forward_hook(self._hook(index))

    def _hook(self, index: int) -> Any:
        scaling = self.layout.scaling

        def add_low_rank(
            _module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor
        ) -> torch.Tensor | None:
            if self._bound is None:
                return None
            a, b = self._bound[index]
            x = args[0]
            # In the base model's dtype, as an engine serves it; the gradients come back in the adapter's own.
            down = nn.functional.linear(x, a.to(x.dtype))
            return output + nn.functional.linear(down, b.to(x.dtype)) * scaling

        return add_low_rank

    @contextlib.contextmanager
    def bind(self, weights: Weights | None) -> Iterator[None]:
        """Use these tensors for the passes inside; None: the base model alone."""
        before, self._bound = self._bound, weights
        try:
            yield
        finally:
            self._bound = before

    def weights(self, flat: torch.Tensor) -> Weights:
        """A and B of each module as views into `flat`, shape (layout.size,)."""
        return [(a, b) for _, a, b in self.layout.views(flat)]

    def leaves(self, flat: torch.Tensor, gradient: torch.Tensor) -> Weights:
        """Leaf views into `flat` whose `.grad` is preset to views of `gradient`: autograd then adds in place there."""
        leaves: Weights = []
        for (a, b), (grad_a, grad_b) in zip(self.weights(flat), self.weights(gradient), strict=True):
            for leaf, grad in ((a, grad_a), (b, grad_b)):
                leaf.requires_grad_()
                leaf.grad = grad
            leaves.append((a, b))
        return leaves


def new_adapter(layout: AdapterLayout, uid: str, revision: str, dtype: torch.dtype = torch.float32) -> AdapterTensors:
    """A user's first adapter: A as PEFT starts it (Kaiming uniform, a = sqrt 5), B zero, so that it adds nothing.

    A is drawn on the CPU from a seed of uid and model revision: two owners that race make the same one.
    """
    digest = hashlib.sha256(f"{uid}\0{revision}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    flat = torch.zeros(layout.size)
    for module, a, _ in layout.views(flat):
        bound = module.in_features**-0.5  # sqrt(6 / ((1 + 5) fan_in))
        a.uniform_(-bound, bound, generator=generator)
    flat = flat.to(dtype)
    return AdapterTensors(flat, torch.zeros_like(flat), torch.zeros_like(flat), optimizer_step=0)


def adds_nothing(layout: AdapterLayout, adapter: AdapterTensors) -> bool:
    """Whether the adapter never took a step and every B is zero: then the policy is the base model, exactly."""
    return adapter.optimizer_step == 0 and not any(b.any() for _, _, b in layout.views(adapter.weights))
