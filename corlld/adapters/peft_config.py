"""An adapter in PEFT's words: its config and the names of its tensors.

Publishing writes both into files. Learning has PEFT load the same at the start, since PEFT may drop or convert modules
that it is given. This module writes no file and does not import PEFT.
"""

import torch

from corlld.adapters.layout import AdapterLayout
from corlld.durable import ModuleNames


def published_name(module: str, names: ModuleNames | None) -> str:
    """Return the path of a module of the loaded model as published adapters have it.

    Raises ValueError for a module outside of the decoder: nobody knows its path in the served model.
    """
    if names is None:
        return module
    if not module.startswith(f"{names.loaded}."):
        raise ValueError(f"{module} is not part of {names.loaded}")
    return names.published + module.removeprefix(names.loaded)


def peft_config(layout: AdapterLayout, base_model: str, names: ModuleNames | None = None) -> dict[str, object]:
    """Return the content of `adapter_config.json`.

    Only the fields that matter are in it: every PEFT release fills in its defaults.

    Args:
        layout: what the adapter's numbers mean.
        base_model: the name under which the base model is served.
        names: the paths of modules in the served model; None: as the loaded model has them.
    """
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        # A local model's revision is a digest that no hub knows. The manifest names it.
        "revision": None,
        "inference_mode": True,
        "r": layout.r,
        "lora_alpha": layout.lora_alpha,
        "lora_dropout": 0.0,
        # Whole paths: a leaf name could also fit a module that carries no adapter (an output head, a vision tower).
        "target_modules": sorted(published_name(module.name, names) for module in layout.modules),
        "modules_to_save": None,
        "bias": "none",
        "fan_in_fan_out": any(module.transposed for module in layout.modules),
    }


def peft_tensors(
    layout: AdapterLayout, weights: torch.Tensor, names: ModuleNames | None = None
) -> dict[str, torch.Tensor]:
    """Return the tensors of `adapter_model.safetensors` by name, as views into `weights`, shape (layout.size,)."""
    tensors = {}
    for module, a, b in layout.views(weights):
        name = published_name(module.name, names)
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
    return tensors
