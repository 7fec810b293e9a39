"""A probe of the resident model at the start: two users' adapters score a row as PEFT does with what is published."""

from collections.abc import Sequence

import torch

from corlld.adapters.layout import AdapterLayout
from corlld.errors import ConfigurationError
from corlld.learning.model.adapted_modules import sample_ids
from corlld.learning.model.packing import Item
from corlld.learning.model.pairs import PreferencePair
from corlld.learning.model.peft_twin import PeftTwin
from corlld.learning.model.resident import ResidentModel

# The largest difference from PEFT: as a share of what the adapters change, and of the log-probabilities themselves,
# which two ways of computing the same round differently.
_OF_CHANGE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}
_OF_ALL = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}
_STRENGTH = 0.2  # the size of the adapters' change of a module's output, as a share of that output


def check_adapters(resident: ResidentModel) -> None:
    """Compare log-probabilities with PEFT's, and see that each adapted module learns.

    Takes the memory of two users' adapters, with their gradients, and of PEFT's copy of one; nothing is kept.

    Raises:
        ConfigurationError: an adapter would not compute what was trained, or a part of it would not be trained.
        Exception: anything that a model raises which can't do this.
    """
    _check(resident)
    if resident.device.type == "cuda":
        torch.cuda.empty_cache()  # what is free is measured next


def _check(resident: ResidentModel) -> None:
    ids = sample_ids(resident.tokenizer, resident.vocabulary)
    middle = len(ids) // 2
    pairs = [
        PreferencePair(ids[:-4], ids[-4:], ids[:-5:-1]),
        PreferencePair(ids[middle:], ids[:middle], ()),
    ]
    weights = torch.stack([_adapter(resident, seed) for seed in range(len(pairs))])
    gradient = torch.zeros_like(weights)
    row = resident.collator.row([Item(user, pair) for user, pair in enumerate(pairs)], range(len(pairs)), len(pairs))
    adapters = resident.lora.stack(weights, gradient)
    with torch.enable_grad(), resident.bound(row, adapters):
        logps = resident.token_logps(row)
        torch.autograd.backward(logps.sum())
    base = resident.scored(row, None)
    twin = PeftTwin(resident.model, resident.layout, attention="eager" if resident.attention else None)
    if lost := twin.lost():
        raise ConfigurationError(f"model.name: PEFT does not load an adapter for {min(lost)}")
    theirs = []
    for item in row.items:
        twin.load(weights[item.user])
        with torch.no_grad():
            for tail in filter(None, (item.pair.chosen, item.pair.rejected)):
                theirs.append(twin.logps(item.pair.prompt + tail, len(tail)))
    _compare(logps.detach(), torch.cat(theirs), base, resident.model.dtype)
    if silent := _silent(resident.layout, gradient.sum(0)):
        text = row.items[-1].pair.prompt + row.items[-1].pair.chosen
        learnt = twin.gradients(text, len(text) - 1)
        if missed := [name for name in silent if any(of is not None and of.any() for of in learnt[name])]:
            raise ConfigurationError(f"model.name: this model can't be trained: no gradient reaches {missed[0]}")


def _adapter(resident: ResidentModel, seed: int) -> torch.Tensor:
    """Return an adapter, shape (layout.size,), that changes each module's output by about the same share."""
    layout = resident.layout
    generator = torch.Generator().manual_seed(seed)
    flat = torch.zeros(layout.size)
    for module, a, b in layout.views(flat):
        weight = resident.model.get_submodule(module.name).weight
        size = weight[:8].float().square().mean().sqrt().item()  # of a number; a sample is enough
        a.normal_(std=module.in_features**-0.5, generator=generator)
        b.normal_(
            std=_STRENGTH * size * module.in_features**0.5 / (layout.r**0.5 * layout.scaling), generator=generator
        )
    return flat.to(resident.device)


def _compare(ours: torch.Tensor, theirs: torch.Tensor, base: torch.Tensor, dtype: torch.dtype) -> None:
    off, change = (ours - theirs).norm().item(), (theirs - base).norm().item()
    limit = _OF_CHANGE.get(dtype, 1e-3) * change + _OF_ALL.get(dtype, 1e-5) * theirs.norm().item()
    if not off <= limit:  # NaN is not
        raise ConfigurationError(
            "model.name: an adapter of this model scores differently where PEFT loads it: by "
            f"{off:.2g} nats, of the {change:.2g} that it changes"
        )


def _silent(layout: AdapterLayout, gradient: torch.Tensor) -> Sequence[str]:
    return [module.name for module, a, b in layout.views(gradient) if not (a.any() and b.any())]
