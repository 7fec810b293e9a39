"""A release as the files of a PEFT adapter: a pure function of the state, so that it can be made again at any time.

The bytes must never change for a version that is out: PEFT's own writer would put in its version number and sets in
any order, so the few fields that matter are written here, and every PEFT release fills in its defaults.
"""

import hashlib
import json
import math

from corlld.adapters.layout import AdapterLayout, AdapterTensors
from corlld.adapters.tensor_file import write_tensors
from corlld.records import ModelInfo, Release, Statistics, UserState

TENSORS_FILE = "adapter_model.safetensors"
MANIFEST_FILE = "manifest.json"
CONFIG_FILE = "adapter_config.json"  # serving engines take a folder for an adapter once this is there: written last

MANIFEST_FORMAT = 1


def adapter_name(uid: str, version: int) -> str:
    """The name of a version, everywhere: never used again for other tensors."""
    return f"{uid}/v{version:06d}"


def adapter_files(state: UserState, layout: AdapterLayout, model: ModelInfo) -> dict[str, bytes]:
    """The files of the state's release, in the order in which they have to appear.

    Args:
        state: with a release, and the adapter that belongs to it.
        layout: what the adapter's numbers mean.
        model: the base model.

    Raises:
        ValueError: the state has nothing to publish.
    """
    if state.release is None or not isinstance(state.adapter, AdapterTensors):
        raise ValueError("the state has no release")
    tensors = {}
    for module, a, b in layout.views(state.adapter.weights):
        tensors[f"base_model.model.{module.name}.lora_A.weight"] = a
        tensors[f"base_model.model.{module.name}.lora_B.weight"] = b
    tensors_file = write_tensors(tensors, {"format": "pt"})
    digest = hashlib.sha256(tensors_file).hexdigest()
    return {
        TENSORS_FILE: tensors_file,
        MANIFEST_FILE: _json(_manifest(state.uid, state.release, layout, model, digest)),
        CONFIG_FILE: _json(_config(layout, model)),
    }


def _config(layout: AdapterLayout, model: ModelInfo) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.name,
        # A local model's revision is a digest that a hub would not know: the manifest has it.
        "revision": None,
        "inference_mode": True,
        "r": layout.r,
        "lora_alpha": layout.lora_alpha,
        "lora_dropout": 0.0,
        # Whole paths: a leaf name could also fit a module that carries no adapter (an output head, a vision tower).
        "target_modules": sorted(module.name for module in layout.modules),
        "modules_to_save": None,
        "bias": "none",
        "fan_in_fan_out": any(module.transposed for module in layout.modules),
    }


def _manifest(uid: str, release: Release, layout: AdapterLayout, model: ModelInfo, digest: str) -> dict[str, object]:
    return {
        "format": MANIFEST_FORMAT,
        "uid": uid,
        "version": release.version,
        "name": adapter_name(uid, release.version),
        "parent": release.parent,
        "base_model": model.name,
        "base_revision": model.revision,
        "adapter_fingerprint": layout.fingerprint,
        "digest": digest,  # SHA-256 of the tensors' file
        "applied": dict(release.applied),
        "counts": _counts(release.statistics),
        "prequential": _prequential(release.statistics),
    }


def _counts(of: Statistics) -> dict[str, object]:
    return {
        "events": of.events,
        "pairs_applied": of.pairs_applied,
        "acceptances": of.acceptances,
        "no_difference": of.no_difference,
        "rejected": dict(of.rejected),
        "updates": of.updates,
    }


def _prequential(of: Statistics) -> dict[str, object]:
    """Figures from before each pair was trained on; null where there is nothing to divide by."""
    return {
        "pairs": of.prequential_pairs,
        "accuracy": _mean(of.prequential_correct, of.prequential_pairs),
        "mean_margin_nats": _mean(of.prequential_margin_sum, of.prequential_pairs),
        "base_pairs": of.base_pairs,
        "base_accuracy": _mean(of.base_correct, of.base_pairs),
        "drafts": {
            version: {
                "events": figures.events,
                "acceptances": figures.acceptances,
                "mean_edit_ratio": _mean(figures.edit_ratio_sum, figures.events),
            }
            for version, figures in of.drafts.items()
        },
    }


def _mean(total: float, count: int) -> float | None:
    mean = total / count if count else math.nan
    return mean if math.isfinite(mean) else None


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"
