"""The start adapter: a PEFT adapter that new users begin from, in place of one that adds nothing.

It is read from its folder at the start of the daemon, and compared with the settings. Of PEFT's formats only
safetensors is read: the other one is pickle. Which user begins when is not known here.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from corlld.adapters.layout import AdapterLayout, AdapterTensors, UserVectors
from corlld.adapters.peft_config import peft_tensors
from corlld.durable import ModelInfo
from corlld.learning.slots import Slot
from corlld.learning.start_config import read_bytes, read_config, read_object, refused, shown
from corlld.settings.paths import absolute_if_path

TENSORS_FILE = "adapter_model.safetensors"
MANIFEST_FILE = "manifest.json"  # only in folders that corlld wrote


@dataclass(frozen=True, eq=False)
class StartAdapter:
    """An adapter of the settings' shape. weights: fp32 in host memory, (layout.size,).

    digest: SHA-256 of `adapter_model.safetensors`, hex. States and manifests of the users who began from it name it.
    """

    weights: torch.Tensor
    digest: str

    def first_adapter(self, dtype: torch.dtype) -> AdapterTensors:
        """Return a new user's first adapter. Its policy is exactly that of the start adapter."""
        weights = self.weights.to(dtype)
        return AdapterTensors(weights, torch.zeros_like(weights), torch.zeros_like(weights), 0, self.digest)


class References:
    """The adapters that users are compared with if the reference is `base`.

    Args:
        start: the start adapter of the settings, if any.
        device: where passes run.
    """

    def __init__(self, start: StartAdapter | None, device: torch.device) -> None:
        self._digest = None if start is None else start.digest
        self._weights = None if start is None else start.weights.to(device)

    def weights(self, slots: Sequence[Slot]) -> UserVectors | None:
        """Return each user's reference, (layout.size,); None if it is the base model alone for all of them.

        The reference is the start adapter for those who began from it. It is the base model for the others: they began
        before there was one, or from one that the settings do not name any more.
        """
        began = [self._weights is not None and slot.start == self._digest for slot in slots]
        if self._weights is None or not any(began):
            return None
        nothing = self._weights if all(began) else torch.zeros_like(self._weights)
        return [self._weights if here else nothing for here in began]


def load_start(folder: Path | None, layout: AdapterLayout, model: ModelInfo) -> StartAdapter | None:
    """Return the adapter in the folder that `adapter.start_path` names; None if it names none.

    Args:
        folder: as PEFT, or corlld, writes it.
        layout: the shape of every user's adapter.
        model: the base model that was loaded.

    Raises ConfigurationError with a sentence on what can't be read, or on the first thing that is different.
    """
    if folder is None:
        return None
    config, manifest = read_config(folder, r=layout.r, lora_alpha=layout.lora_alpha), {}
    if (folder / MANIFEST_FILE).exists():
        manifest = read_object(folder / MANIFEST_FILE)
    _compare_model(folder, config, manifest, model)
    data = read_bytes(folder / TENSORS_FILE)
    try:
        tensors = load_safetensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise refused(f"{folder / TENSORS_FILE} is not a whole file of safetensors ({error})") from None
    return StartAdapter(_flat(folder, tensors, layout, model), hashlib.sha256(data).hexdigest())


def _compare_model(folder: Path, config: Mapping[str, Any], manifest: Mapping[str, Any], model: ModelInfo) -> None:
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or absolute_if_path(name) != model.name:
        raise refused(
            f"{folder} belongs to the base model {shown(name)}, and this is {shown(model.name)} (model.name or "
            "model.served_name)"
        )
    if manifest.get("base_revision", model.revision) != model.revision:
        raise refused(
            f"{folder} was made on revision {shown(manifest['base_revision'])} of the base model, and this is "
            f"{shown(model.revision)}"
        )


def _flat(folder: Path, tensors: Mapping[str, torch.Tensor], layout: AdapterLayout, model: ModelInfo) -> torch.Tensor:
    """Return the tensors as a vector in the layout's order. They may have the served model's names or the loaded's."""
    flat = torch.empty(layout.size)
    places = [peft_tensors(layout, flat, names) for names in dict.fromkeys((model.module_names, None))]
    place = next((each for each in places if each.keys() == tensors.keys()), places[0])
    for names, words in ((place.keys() - tensors.keys(), "lacks"), (tensors.keys() - place.keys(), "has")):
        if names:
            raise refused(
                f"{folder} {words} the tensor {min(names)}, one of {len(names)}: users' adapters have "
                f"{len(layout.modules)} modules, by adapter.target_modules"
            )
    for name, view in place.items():
        tensor = tensors[name]
        if tensor.shape != view.shape or not tensor.is_floating_point():
            raise refused(
                f"{folder} has the tensor {name} of shape {tuple(tensor.shape)} in {_dtype(tensor)}, needed: "
                f"{tuple(view.shape)} in a floating-point format"
            )
        view.copy_(tensor)
        if not view.isfinite().all():
            raise refused(f"{folder} has the tensor {name} with numbers that are not finite")
    return flat


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
