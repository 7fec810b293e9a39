"""Writes a release as the files of a PEFT adapter: a pure function of the state, so that it can be repeated.

The bytes of a version that is out must never change. PEFT's own writer adds its version number, and sets in any order.
So only the fields that matter are written. This module does not know where the files go.
"""

import hashlib
import json
import math

from corlld.adapters.layout import AdapterLayout, AdapterTensors
from corlld.adapters.peft_config import peft_config, peft_tensors
from corlld.adapters.tensor_file import write_tensors
from corlld.durable import ModelInfo, Release, Statistics, UserState

TENSORS_FILE = "adapter_model.safetensors"
MANIFEST_FILE = "manifest.json"
CONFIG_FILE = "adapter_config.json"  # written last: serving engines take a folder with it for an adapter

MANIFEST_FORMAT = 1


def adapter_name(uid: str, version: int) -> str:
    """Return the name of a version, the same everywhere. It is never used again for other tensors."""
    return f"{uid}/v{version:06d}"


def adapter_files(state: UserState, layout: AdapterLayout, model: ModelInfo) -> dict[str, bytes]:
    """Return the files of the state's release by name, in the order in which they must appear.

    Args:
        state: has a release, and the adapter that belongs to it.
        layout: what the adapter's numbers mean.
        model: the base model. Its names of modules are those of new releases; a release keeps its own.

    Raises:
        ValueError: the state has nothing to publish.
    """
    if state.release is None or not isinstance(state.adapter, AdapterTensors):
        raise ValueError("the state has no release")
    tensors = peft_tensors(layout, state.adapter.weights, state.release.module_names)
    tensors_file = write_tensors(tensors, {"format": "pt"})
    digest = hashlib.sha256(tensors_file).hexdigest()
    return {
        TENSORS_FILE: tensors_file,
        MANIFEST_FILE: _json({**_manifest(state, state.release, layout, model, digest), **_lineage(state.adapter)}),
        CONFIG_FILE: _json(peft_config(layout, model.name, state.release.module_names)),
    }


def _manifest(
    state: UserState, release: Release, layout: AdapterLayout, model: ModelInfo, digest: str
) -> dict[str, object]:
    return {
        "format": MANIFEST_FORMAT,
        "uid": state.uid,
        "version": release.version,
        "name": adapter_name(state.uid, release.version),
        "parent": release.parent,
        **({} if state.arm is None else {"arm": state.arm}),
        "base_model": model.name,
        "base_revision": model.revision,
        "adapter_fingerprint": layout.fingerprint,
        "digest": digest,  # SHA-256 of the tensors' file, hex
        "applied": dict(release.applied),
        "counts": _counts(release.statistics),
        "prequential": _prequential(release.statistics),
    }


def _lineage(adapter: AdapterTensors) -> dict[str, object]:
    """Return the digest of the adapter that the user began from. Nothing if there is none: most manifests are so."""
    return {} if adapter.start is None else {"start_adapter": adapter.start}


def _counts(statistics: Statistics) -> dict[str, object]:
    return {
        "events": statistics.events,
        "pairs_applied": statistics.pairs_applied,
        "acceptances": statistics.acceptances,
        "no_difference": statistics.no_difference,
        "rejected": dict(statistics.rejected),
        "updates": statistics.updates,
    }


def _prequential(statistics: Statistics) -> dict[str, object]:
    """Return figures measured before each pair was trained on; null if there is nothing to divide by."""
    return {
        "pairs": statistics.prequential_pairs,
        "accuracy": _mean(statistics.prequential_correct, statistics.prequential_pairs),
        "mean_margin_nats": _mean(statistics.prequential_margin_sum, statistics.prequential_pairs),
        "base_pairs": statistics.base_pairs,
        "base_accuracy": _mean(statistics.base_correct, statistics.base_pairs),
        "drafts": {
            version: {
                "events": figures.events,
                "acceptances": figures.acceptances,
                "mean_edit_ratio": _mean(figures.edit_ratio_sum, figures.events),
            }
            for version, figures in statistics.drafts.items()
        },
    }


def _mean(total: float, count: int) -> float | None:
    mean = total / count if count else math.nan
    return mean if math.isfinite(mean) else None


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"
