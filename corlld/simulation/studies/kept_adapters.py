"""Adapters that a unit of a study leaves in `Options.scratch` for a later unit."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from safetensors.torch import save_file

from corlld.adapters.layout import AdapterTensors
from corlld.errors import FatalError

_STEP = "optimizer_step"
_START = "start"  # no study has a start adapter
_TENSORS = tuple(field.name for field in fields(AdapterTensors) if field.name not in (_STEP, _START))
_EDITS = "edits"  # no owner has this name


class Kept(NamedTuple):
    """Adapters by owner, and the number of edits per owner that they have learnt from."""

    adapters: dict[str, AdapterTensors]
    edits: int


def keep(path: Path, adapters: Mapping[str, AdapterTensors], edits: int) -> None:
    """Write the adapters with their optimizer states. The folder is made; an older file is replaced."""
    tensors = {f"{owner} {part}": getattr(adapter, part) for owner, adapter in adapters.items() for part in _TENSORS}
    steps = {owner: str(adapter.optimizer_step) for owner, adapter in adapters.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {_EDITS: str(edits)} | steps)


def kept(path: Path) -> Kept:
    """Return what `keep` has written. Raises FatalError if the file is missing."""
    if not path.exists():
        raise FatalError(f"{path} is missing: start again in another folder")
    with safe_open(path, "pt") as file:
        steps = file.metadata()
        edits = int(steps.pop(_EDITS))
        adapters = {}
        for owner, step in steps.items():
            parts: dict[str, Any] = {part: file.get_tensor(f"{owner} {part}") for part in _TENSORS}
            adapters[owner] = AdapterTensors(**parts, optimizer_step=int(step))
        return Kept(adapters, edits)
