"""Chooses the modules that carry LoRA: those that a training pass calls, and that PEFT loads again.

PEFT drops or converts modules of some families when it loads an adapter (dense layers of mixtures of experts), and
refuses others (Mamba's `out_proj`). A training pass on texts never calls a vision tower. What is trained there would be
lost, or do nothing. Some families keep a router in float32 whatever `model.dtype` is, and all adapters are computed in
one dtype. Such modules are left out, and the reason is kept for `check` and the log. A store that was made
with them has another fingerprint, and is refused.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import nn

from corlld.adapters.layout import AdapterLayout, LoraModule
from corlld.errors import ConfigurationError
from corlld.learning.model.linear_modules import choose_modules, fits, special_linears
from corlld.learning.model.peft_twin import PeftTwin
from corlld.learning.model.unsupported import reason
from corlld.settings.sections import AdapterSettings

# What PEFT raises for a module that it can't adapt.
_PEFT_ERRORS = (TypeError, ValueError, LookupError, RuntimeError, AttributeError, ImportError)

_NOT_LOADED = "PEFT does not load an adapter there in this model"
_NOT_CALLED = "not called in a training pass"
_PARTLY_CALLED = "not called once with each token of a text"
_SAMPLE = "The cat sat on the mat and looked out"
_MOST_IDS = 16
_LEAST_IDS = 5
_MOST_NAMED = 6


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Modules that carry no LoRA. modules: their names, in the model's order. reason: a clause of a sentence."""

    modules: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        count = len(self.modules)
        modules = "1 linear module carries" if count == 1 else f"{count:,} linear modules carry"
        return f"{modules} no LoRA ({self.reason}): {_summary(self.modules)}"


@dataclass(frozen=True, slots=True)
class AdaptedModules:
    """The choice of modules for one model.

    layout: the modules that carry LoRA.
    left_out: linear modules that were asked for, and carry none.
    parameters: numbers of the whole model. expert_parameters: those of its routed experts, which carry no LoRA.
    """

    layout: AdapterLayout
    left_out: tuple[LeftOut, ...]
    parameters: int
    expert_parameters: int

    def sentences(self) -> list[str]:
        """Return what is not adapted and why, a sentence each; empty if all is."""
        found = [str(left_out) for left_out in self.left_out]
        if self.expert_parameters:
            found.append(
                f"routed experts carry no LoRA: {self.expert_parameters:,} of the model's {self.parameters:,} numbers "
                f"({self.expert_parameters / self.parameters:.0%}) stay as they are"
            )
        return found


def sample_ids(tokenizer: Any, vocabulary: int) -> tuple[int, ...]:
    """Return the ids of a short text, to look at what a model computes: at least 5.

    Args:
        tokenizer: the model's.
        vocabulary: how many ids the model has an embedding for.

    A tokenizer that has no words for plain English, such as one of an artificial language, gives its first words.

    Raises:
        ConfigurationError: the tokenizer has other ids than the model, or too few words.
    """
    ids = tuple(tokenizer(_SAMPLE, add_special_tokens=False)["input_ids"])
    if len(ids) < _LEAST_IDS or len(set(ids)) == 1:
        special = set(tokenizer.all_special_ids)
        ids = tuple(id_ for id_ in sorted(tokenizer.get_vocab().values()) if id_ not in special)[:_MOST_IDS]
    if len(ids) < _LEAST_IDS or max(ids) >= vocabulary:
        raise ConfigurationError("model.name: the tokenizer does not fit the model: it has other ids, or too few words")
    return ids


def adapt_modules(model: Any, ids: Sequence[int], adapter: AdapterSettings) -> AdaptedModules:
    """Choose the modules that carry LoRA.

    Args:
        model: a transformers causal language model, frozen, on its device, as it was loaded.
        ids: a short text, to see what a training pass calls.
        adapter: shape of every user's adapter.

    Raises:
        ConfigurationError: a module that the settings name can't be adapted, or nothing is left, or the model's
            attention is not.
        Exception: anything that a model raises which can't be trained.
    """
    special = special_linears(model, adapter.target_modules)
    reasons = {name: f"{kind} computes in a way of its own" for name, kind in special.items()}
    modules = choose_modules(model, adapter.target_modules)
    reasons |= _in_another_dtype(model, modules)
    chosen = AdapterLayout(
        adapter.r, adapter.lora_alpha, tuple(module for module in modules if module.name not in reasons)
    )
    twin = _without_lost(model, chosen)
    loaded = () if twin is None else twin.layout.modules
    reasons |= {module.name: _NOT_LOADED for module in chosen.modules if module not in loaded}
    if twin is not None:
        reasons |= _unused(twin, ids)
    layout = replace(chosen, modules=tuple(module for module in loaded if module.name not in reasons))
    _refuse_too_little(adapter, layout, reasons)
    return AdaptedModules(
        layout=layout,
        left_out=tuple(
            LeftOut(tuple(name for name, own in reasons.items() if own == why), why)
            for why in dict.fromkeys(reasons.values())
        ),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        expert_parameters=_expert_parameters(model, {module.name for module in layout.modules}),
    )


def _in_another_dtype(model: Any, modules: Iterable[LoraModule]) -> dict[str, str]:
    """Return the modules that a family keeps in another dtype than `model.dtype` (routers), and why they are left out.

    Adapters of all modules are computed in one dtype.
    """
    dtypes = {module.name: model.get_submodule(module.name).weight.dtype for module in modules}
    return {
        name: f"kept in {str(dtype).removeprefix('torch.')}" for name, dtype in dtypes.items() if dtype != model.dtype
    }


def _without_lost(model: nn.Module, layout: AdapterLayout) -> PeftTwin | None:
    """Return PEFT's model of the layout without the modules that PEFT drops, converts or refuses; None if all are."""
    while layout.modules:
        try:
            twin = PeftTwin(model, layout)
            lost = twin.lost()
            if not lost:
                return twin
        except _PEFT_ERRORS as error:  # for the sake of some of them, without saying which
            lost = _lost_by_kind(model, layout)
            if not lost:
                raise ConfigurationError(f"model.name: PEFT loads no adapter for it: {reason(error)}") from error
        kept = tuple(module for module in layout.modules if module.name not in lost)
        if len(kept) == len(layout.modules):
            raise ConfigurationError(f"model.name: PEFT would also adapt other modules of it: {_summary(lost)}")
        layout = replace(layout, modules=kept)
    return None


def _lost_by_kind(model: nn.Module, layout: AdapterLayout) -> set[str]:
    lost: set[str] = set()
    modules = sorted(layout.modules, key=_leaf)
    for _, group in groupby(modules, key=_leaf):
        own = replace(layout, modules=tuple(group))
        try:
            lost |= PeftTwin(model, own).lost()
        except _PEFT_ERRORS:
            lost |= {module.name for module in own.modules}
    return lost


def _unused(twin: PeftTwin, ids: Sequence[int]) -> dict[str, str]:
    """Return the modules that a training pass does not reach, and why.

    The layout must not depend on chance, and chance decides on the experts that a token meets. So a kind of modules is
    left out as a whole if some of them see a part of the tokens.
    """
    twin.load(torch.zeros(twin.layout.size))
    calls: dict[str, list[int]] = {}
    with twin.counting(calls):
        gradients = twin.gradients(ids, len(ids) - 1)
    partly = {_kind(name) for name, counts in calls.items() if any(count != len(ids) for count in counts)}
    reached = {name for name, of_factors in gradients.items() if all(found is not None for found in of_factors)}
    unused = {}
    for module in twin.layout.modules:
        if _kind(module.name) in partly or _is_routed(module.name):
            unused[module.name] = _PARTLY_CALLED
        elif module.name not in reached:
            unused[module.name] = _NOT_CALLED
    return unused


def _refuse_too_little(adapter: AdapterSettings, layout: AdapterLayout, reasons: dict[str, str]) -> None:
    kept = [module.name for module in layout.modules]
    if adapter.target_modules != "all-linear":
        for target in adapter.target_modules:
            if not any(fits(name, target) for name in kept):
                why = next(why for name, why in reasons.items() if fits(name, target))
                raise ConfigurationError(f"adapter.target_modules: {target!r} can't be adapted: {why}")
    if not kept:
        raise ConfigurationError(f"model.name: none of its linear modules can be adapted: {_why(reasons.values())}")
    lost = {name: why for name, why in reasons.items() if _in_attention(name) and why == _NOT_LOADED}
    if lost and not any(map(_in_attention, kept)):
        raise ConfigurationError(f"model.name: its attention can't be adapted: {_why(lost.values())}")


def _why(reasons: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(reasons))


def _expert_parameters(model: nn.Module, adapted: set[str]) -> int:
    """Count the numbers of routed experts, by the names that families give to their modules or classes."""
    found = {
        id(parameter): parameter.numel()
        for name, module in model.named_modules()
        if name not in adapted and ("experts" in name.split(".") or "Expert" in type(module).__name__)
        for parameter in module.parameters(recurse=False)
    }
    return sum(found.values())


def _is_routed(name: str) -> bool:
    return re.search(r"\bexperts\.\d+\.", name) is not None


def _leaf(module: LoraModule) -> str:
    return module.name.rpartition(".")[2]


def _kind(name: str) -> str:
    """Return a module's name without the numbers of layers and experts."""
    return re.sub(r"\.\d+\b", ".*", name)


def _in_attention(name: str) -> bool:
    return any("attn" in part or "attention" in part for part in name.lower().split("."))


def _summary(names: Iterable[str]) -> str:
    """Name modules briefly: their kinds, by the list of layers that they are in."""
    by_place: dict[str, list[str]] = {}
    for kind in dict.fromkeys(map(_kind, names)):
        place, numbered, inner = kind.partition(".*.")
        by_place.setdefault(f" in {place}" if numbered else "", []).append(inner if numbered else kind)
    return "; ".join(_listed(sorted(kinds)) + place for place, kinds in by_place.items())


def _listed(kinds: Sequence[str]) -> str:
    more = len(kinds) - _MOST_NAMED
    return ", ".join(kinds[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
