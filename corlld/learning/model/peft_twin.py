"""A copy of the base model's structure that carries PEFT's own LoRA layers, over the base model's own tensors.

What PEFT makes of a published adapter is asked of PEFT itself. No weight is copied, and nothing of the model is
changed: the copy's modules are new, and their parameters are the model's.
"""

import contextlib
import copy
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
from torch import nn

from corlld.adapters.layout import AdapterLayout
from corlld.adapters.peft_config import peft_config, peft_tensors

_ADAPTER = "default"  # PEFT's name for the only adapter of a model


class PeftTwin:
    """The model with PEFT's LoRA layers, made from the config that would be published.

    Args:
        model: a transformers model, frozen. Forward methods that were replaced in it are its classes' own in the copy.
        layout: the modules to adapt.
        attention: transformers' name of the attention to use; None for the model's.

    Raises:
        ValueError, and whatever else PEFT raises: it refuses such an adapter for this model.
    """

    def __init__(self, model: nn.Module, layout: AdapterLayout, attention: str | None = None) -> None:
        self.layout = layout
        twin = _copy_of_structure(model)
        if attention is not None:
            twin.set_attn_implementation(attention)
        config = PeftConfig.from_peft_type(**peft_config(layout, "base"))
        with _quiet():
            self._peft = get_peft_model(twin, config, low_cpu_mem_usage=True)

    def lost(self) -> set[str]:
        """Return the modules that PEFT would not load as they are published. Ask before `load`.

        PEFT drops or converts some, by the model's family. If none of the layout's is among them, they are modules
        that PEFT adapts beside those.
        """
        shapes = {name: (a.shape, b.shape) for name, a, b in self._factors()}
        meta = torch.empty(self.layout.size, device="meta")
        lost = {
            module.name for module, a, b in self.layout.views(meta) if shapes.get(module.name) != (a.shape, b.shape)
        }
        if not lost:
            with _quiet():
                loaded = set_peft_model_state_dict(self._peft, peft_tensors(self.layout, meta), low_cpu_mem_usage=True)
            keys = (*loaded.unexpected_keys, *(key for key in loaded.missing_keys if ".lora_" in key))
            lost = {key.partition(".lora_")[0].removeprefix("base_model.model.") for key in keys}
        return lost

    def load(self, weights: torch.Tensor) -> None:
        """Give PEFT the tensors of an adapter, shape (layout.size,), as it would read them from published files."""
        for module in self._peft.modules():
            if hasattr(module, "lora_A") and next(module.lora_A.parameters()).device.type == "meta":
                base = module.get_base_layer().weight
                for part in (module.lora_A, module.lora_B):
                    # PEFT keeps adapters of a model in half precision in float32.
                    part.to_empty(device=base.device).to(torch.promote_types(base.dtype, torch.float32))
        with _quiet():
            set_peft_model_state_dict(self._peft, peft_tensors(self.layout, weights))

    def logps(self, ids: Sequence[int], tail: int) -> torch.Tensor:
        """Return the log-probabilities in nats of the last `tail` of a text's tokens, shape (tail,)."""
        text = torch.tensor([list(ids)], device=next(self._peft.parameters()).device)
        with _quiet():
            logits = self._peft(input_ids=text, use_cache=False).logits[0, -tail - 1 : -1]
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        found: torch.Tensor = wide.log_softmax(-1).gather(1, text[0, -tail:, None])[:, 0]
        return found

    def gradients(self, ids: Sequence[int], tail: int) -> dict[str, tuple[torch.Tensor | None, torch.Tensor | None]]:
        """Return by module the gradient of A and of B of the text's summed log-probability; None if it has none."""
        factors = self._factors()
        with torch.enable_grad():
            parameters = [factor.requires_grad_() for _, a, b in factors for factor in (a, b)]
            found = torch.autograd.grad(self.logps(ids, tail).sum(), parameters, allow_unused=True)
        return {name: (found[2 * i], found[2 * i + 1]) for i, (name, _, _) in enumerate(factors)}

    @contextlib.contextmanager
    def counting(self, counts: dict[str, list[int]]) -> Iterator[None]:
        """Append to `counts`, by module, the number of tokens of each call inside."""
        handles = []
        for name, module in self._carriers():
            calls = counts.setdefault(name, [])
            handles.append(module.register_forward_pre_hook(lambda _, x, calls=calls: calls.append(_tokens(x[0]))))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _carriers(self) -> list[tuple[str, Any]]:
        prefix = "base_model.model."
        return [(name.removeprefix(prefix), m) for name, m in self._peft.named_modules() if hasattr(m, "lora_A")]

    def _factors(self) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
        return [(name, m.lora_A[_ADAPTER].weight, m.lora_B[_ADAPTER].weight) for name, m in self._carriers()]


def _copy_of_structure(model: nn.Module) -> Any:
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    for module in twin.modules():
        vars(module).pop("forward", None)
    return twin


def _tokens(x: torch.Tensor) -> int:
    return x.numel() // x.shape[-1]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep PEFT's warnings to developers from the log, and its random start from torch's generator."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        yield
