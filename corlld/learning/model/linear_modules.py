"""Linear modules of a model, by the names of the settings: those that can carry LoRA, and those that can't.

Other classes inherit from `nn.Linear` and compute something else: routers, quantised layers. LoRA would replace their
forward pass by x W.T + bias.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import nn
from transformers.pytorch_utils import Conv1D

from corlld.adapters.layout import LoraModule
from corlld.errors import ConfigurationError

Targets = Literal["all-linear"] | Sequence[str]

_TOLERANCE = {torch.bfloat16: 0.02, torch.float16: 0.005}
# What a class may raise for an input that a linear module takes: an expert that wants groups of tokens, say.
_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


def choose_modules(model: Any, target_modules: Targets) -> tuple[LoraModule, ...]:
    """Return the linear modules that can carry LoRA, in the model's order.

    Args:
        model: a transformers causal language model.
        target_modules: "all-linear" (all but the output head), or names as PEFT takes them: a module's whole path, or
            the end of it.

    Raises:
        ConfigurationError: a name fits no such module, or fits the output head. The message lists those that exist.
    """
    head = model.get_output_embeddings()
    linear = {name: module for name, module in _linear(model) if _is_plain(module)}
    chosen = set(linear)
    if target_modules != "all-linear":
        for target in target_modules:
            for name, module in model.named_modules():
                if fits(name, target) and (module is head or isinstance(module, nn.Embedding)):
                    kind = "the output layer" if module is head else "an embedding"
                    raise ConfigurationError(
                        f"adapter.target_modules: {target!r} is {kind}, which can carry no adapter; leave it out"
                    )
            if not any(fits(name, target) for name in linear):
                raise ConfigurationError(f"adapter.target_modules: {_no_linear(model, target, linear)}")
        chosen = {name for name in linear if any(fits(name, target) for target in target_modules)}
    if not chosen:
        raise ConfigurationError("adapter.target_modules: the model has no linear module to adapt")
    return tuple(_describe(name, module) for name, module in linear.items() if name in chosen)


def special_linears(model: Any, target_modules: Targets) -> dict[str, str]:
    """Return the targeted modules that inherit from a linear one and compute something else: class name by name."""
    special = {name: type(module).__name__ for name, module in _linear(model) if not _is_plain(module)}
    if target_modules == "all-linear":
        return special
    return {name: kind for name, kind in special.items() if any(fits(name, target) for target in target_modules)}


def fits(name: str, target: str) -> bool:
    """Return whether a module of this name is meant by `target`, a name of `adapter.target_modules`."""
    return name == target or name.endswith(f".{target}")


def _linear(model: Any) -> list[tuple[str, nn.Module]]:
    """Return all linear modules but the output head."""
    head = model.get_output_embeddings()
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    return [(name, module) for name, module in linear if module is not head]


@torch.no_grad()
def _is_plain(module: Any) -> bool:
    """Return whether the module computes x W.T + bias: by its class's forward pass, or else by trying it."""
    if "forward" not in vars(module) and type(module).forward in (nn.Linear.forward, Conv1D.forward):
        return True
    weight, bias = module.weight, module.bias
    if not isinstance(weight, torch.Tensor) or not weight.is_floating_point() or weight.device.type == "meta":
        return False
    if isinstance(module, Conv1D):
        weight = weight.mT
    x = torch.linspace(-2, 2, 2 * weight.shape[1], device=weight.device).reshape(1, 2, -1).to(weight.dtype)
    try:
        y, expected = module(x), F.linear(x, weight, bias)
    except _ERRORS:
        return False
    tolerance = _TOLERANCE.get(weight.dtype, 1e-4)
    same = isinstance(y, torch.Tensor) and y.shape == expected.shape and y.dtype == expected.dtype
    return same and torch.allclose(y, expected, rtol=tolerance, atol=tolerance)


def _no_linear(model: Any, target: str, linear: Iterable[str]) -> str:
    for name, module in _linear(model):
        if fits(name, target):
            return f"{target!r} is a {type(module).__name__}, which computes in a way of its own and can't be adapted"
    exist = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
    return f"the model has no linear {target!r}; it has {exist}"


def _describe(name: str, module: nn.Module) -> LoraModule:
    if isinstance(module, Conv1D):
        rows, columns = module.weight.shape
        return LoraModule(name, in_features=rows, out_features=columns, transposed=True)
    assert isinstance(module, nn.Linear)  # noqa: S101 - for the type checker
    return LoraModule(name, in_features=module.in_features, out_features=module.out_features)
