"""A published adapter is what PEFT loads, and the same bytes whenever it is made."""

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import LoraConfig, PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from corlld.adapters.layout import AdapterLayout, AdapterTensors
from corlld.durable import ModelInfo, UserState
from corlld.learning.model.linear_modules import choose_modules
from corlld.publishing.peft_format import CONFIG_FILE, MANIFEST_FILE, TENSORS_FILE, adapter_files, adapter_name
from tests.support.states import FIGURES, SMALL_LAYOUT, UID, adapter, released_state, tombstone
from tests.support.tiny_models import make_tiny_model

# PEFT 0.21 asks transformers 5 for a property by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

MODEL = ModelInfo("served/name", "r" * 40, "fingerprint", supports_messages=False)
SEEN = torch.tensor([[1, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40]])


def _write(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def _merge_by_hand(model: nn.Module, layout: AdapterLayout, weights: torch.Tensor) -> None:
    with torch.no_grad():
        for module, a, b in layout.views(weights):
            change = layout.lora_alpha / layout.r * (b @ a)  # (out, in)
            model.get_parameter(f"{module.name}.weight").add_(change.T if module.transposed else change)


@pytest.mark.parametrize("targets", ["all-linear", "one by name"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_peft_gives_the_logits_of_the_adapter_applied_by_hand(tmp_path: Path, family: str, targets: str) -> None:
    folder = make_tiny_model(tmp_path / "model", family)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    names = "all-linear" if targets == "all-linear" else ("attn.c_attn",) if family == "gpt2" else ("q_proj",)
    layout = AdapterLayout(4, 12, choose_modules(plain, names))
    tensors = adapter(layout)
    state = replace(released_state(layout=layout), adapter=replace(tensors, weights=0.05 * tensors.weights))
    assert isinstance(state.adapter, AdapterTensors)
    published = _write(adapter_files(state, layout, replace(MODEL, name=str(folder))), tmp_path / "adapter")

    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(published))
    with torch.no_grad():
        base = plain(SEEN).logits
        _merge_by_hand(plain, layout, state.adapter.weights)
        expected = plain(SEEN).logits
        got = loaded(SEEN).logits
    assert torch.allclose(got, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    assert (expected - base).abs().max() > 1000 * (got - expected).abs().max()
    adapted = {name.split(".lora_A")[0] for name, _ in loaded.named_modules() if name.endswith(".lora_A.default")}
    assert adapted == {f"base_model.model.{module.name}" for module in layout.modules}


def test_the_same_release_is_the_same_bytes_whatever_came_after_it() -> None:
    state = released_state(3)
    later = replace(
        state,
        applied={"topic-id/0": 1000},
        recent_event_ids=("later",),
        statistics=replace(FIGURES, acceptances=50),
    )
    assert adapter_files(later, SMALL_LAYOUT, MODEL) == adapter_files(state, SMALL_LAYOUT, MODEL)
    assert adapter_files(state, SMALL_LAYOUT, MODEL) != adapter_files(released_state(4), SMALL_LAYOUT, MODEL)


def test_the_config_comes_last_and_holds_what_engines_ask_for() -> None:
    files = adapter_files(released_state(), SMALL_LAYOUT, MODEL)
    assert list(files) == [TENSORS_FILE, MANIFEST_FILE, CONFIG_FILE]
    config = json.loads(files[CONFIG_FILE])
    assert config["base_model_name_or_path"] == "served/name"
    assert config["modules_to_save"] is None
    assert config["target_modules"] == ["block.q", "block.v"]
    assert (config["r"], config["lora_alpha"], config["bias"], config["lora_dropout"]) == (2, 4, "none", 0.0)
    assert config["inference_mode"] is True
    assert set(config) <= {field.name for field in fields(LoraConfig)}


def test_the_tensors_are_named_as_peft_names_them() -> None:
    state = released_state()
    assert isinstance(state.adapter, AdapterTensors)
    tensors = safetensors.torch.load(adapter_files(state, SMALL_LAYOUT, MODEL)[TENSORS_FILE])
    expected = {}
    for module, a, b in SMALL_LAYOUT.views(state.adapter.weights):
        expected[f"base_model.model.{module.name}.lora_A.weight"] = a
        expected[f"base_model.model.{module.name}.lora_B.weight"] = b
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_the_manifest_tells_where_the_version_comes_from() -> None:
    files = adapter_files(released_state(3), SMALL_LAYOUT, MODEL)
    manifest = json.loads(files[MANIFEST_FILE])
    assert manifest["digest"] == hashlib.sha256(files[TENSORS_FILE]).hexdigest()
    assert (manifest["uid"], manifest["version"], manifest["parent"]) == (UID, 3, 2)
    assert manifest["name"] == adapter_name(UID, 3) == f"{UID}/v000003"
    assert (manifest["base_model"], manifest["base_revision"]) == ("served/name", "r" * 40)
    assert manifest["applied"] == {"topic-id/0": 30, "topic-id/3": 7}
    assert manifest["counts"]["pairs_applied"] == 4
    assert manifest["counts"]["rejected"] == {"too_long": 1}
    prequential = manifest["prequential"]
    assert prequential["accuracy"] == 2.5 / 4
    assert prequential["mean_margin_nats"] == (0.1 + 0.2) / 4
    assert prequential["base_accuracy"] == 1.0 / 2
    assert prequential["drafts"]["0"]["mean_edit_ratio"] == (1 / 3) / 3


def test_nothing_of_the_edits_that_a_state_keeps_is_published() -> None:
    state = released_state()
    assert isinstance(state.adapter, AdapterTensors)
    keeping = replace(state, adapter=replace(state.adapter, kept=torch.arange(9, dtype=torch.int32)))
    assert adapter_files(keeping, SMALL_LAYOUT, MODEL) == adapter_files(state, SMALL_LAYOUT, MODEL)


def test_a_manifest_is_strict_json_also_without_figures() -> None:
    state = released_state()
    assert state.release is not None
    odd = replace(FIGURES, prequential_pairs=0, prequential_margin_sum=0.0, base_correct=float("nan"))
    files = adapter_files(replace(state, release=replace(state.release, statistics=odd)), SMALL_LAYOUT, MODEL)

    def no_constants(name: str) -> Any:
        raise AssertionError(name)

    prequential = json.loads(files[MANIFEST_FILE], parse_constant=no_constants)["prequential"]
    assert (prequential["accuracy"], prequential["mean_margin_nats"], prequential["base_accuracy"]) == (None,) * 3


@pytest.mark.parametrize("state", [tombstone(), replace(released_state(), release=None)])
def test_a_state_without_a_release_has_no_files(state: UserState) -> None:
    with pytest.raises(ValueError, match="no release"):
        adapter_files(state, SMALL_LAYOUT, MODEL)
