"""The start adapter: what is read as one, and what is refused with a sentence."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from corlld.adapters.layout import AdapterTensors
from corlld.durable import ModelInfo, ModuleNames, Release, Statistics, UserState
from corlld.errors import ConfigurationError, ExitCode
from corlld.learning.model.resident import ResidentModel
from corlld.learning.start_adapter import load_start
from corlld.publishing.peft_format import adapter_files
from tests.support.tiny_models import make_tiny_model, tiny_resident

# PEFT 0.21 asks transformers 5 for a property by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def weights_of(resident: ResidentModel) -> torch.Tensor:
    return torch.randn(resident.layout.size, generator=torch.Generator().manual_seed(5)) * 0.1


def published(resident: ResidentModel, folder: Path, names: ModuleNames | None = None) -> Path:
    """Publish an adapter into the folder."""
    flat = weights_of(resident)
    adapter = AdapterTensors(flat, torch.zeros_like(flat), torch.zeros_like(flat), 1)
    state = UserState("0" * 32, 1, adapter, release=Release(1, None, {}, Statistics(), names))
    folder.mkdir()
    for name, data in adapter_files(state, resident.layout, resident.info).items():
        (folder / name).write_bytes(data)
    return folder


def test_a_published_adapter_is_read_as_it_was_and_named_by_the_digest_of_its_manifest(
    resident: ResidentModel, tmp_path: Path
) -> None:
    folder = published(resident, tmp_path / "start")
    start = load_start(folder, resident.layout, resident.info)
    assert start is not None
    assert torch.equal(start.weights, weights_of(resident))
    assert start.digest == json.loads((folder / "manifest.json").read_text())["digest"]
    first = start.first_adapter(torch.float32)
    assert torch.equal(first.weights, start.weights)
    assert (first.optimizer_step, first.start) == (0, start.digest)
    assert not torch.cat([first.exp_avg, first.exp_avg_sq]).any()


def test_no_path_is_no_start_adapter(resident: ResidentModel) -> None:
    assert load_start(None, resident.layout, resident.info) is None


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_that_peft_saved_is_read(tmp_path: Path, family: str) -> None:
    model = make_tiny_model(tmp_path / "model", family)
    resident = tiny_resident(model)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=[module.name for module in resident.layout.modules],
        fan_in_fan_out=family == "gpt2",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    peft = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    peft.save_pretrained(str(tmp_path / "start"))
    start = load_start(tmp_path / "start", resident.layout, resident.info)
    assert start is not None
    for module, a, b in resident.layout.views(start.weights):
        layer = peft.get_base_model().get_submodule(module.name)
        assert torch.equal(a, layer.lora_A["default"].weight)
        assert torch.equal(b, layer.lora_B["default"].weight)
        assert b.any()
    data = (tmp_path / "start" / "adapter_model.safetensors").read_bytes()
    assert start.digest == hashlib.sha256(data).hexdigest()


def test_tensors_may_have_the_names_that_engines_serve_or_those_of_the_loaded_model(
    resident: ResidentModel, tmp_path: Path
) -> None:
    names = ModuleNames("model", "model.language_model")
    info = ModelInfo(resident.info.name, resident.info.revision, "", supports_messages=False, module_names=names)
    for number, written in enumerate((names, None)):
        start = load_start(published(resident, tmp_path / str(number), written), resident.layout, info)
        assert start is not None
        assert torch.equal(start.weights, weights_of(resident))


def config(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

    return change


def tensors(change: Callable[[dict[str, torch.Tensor], str], None]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        found = safetensors.torch.load_file(file)
        change(found, min(found))
        safetensors.torch.save_file(found, file)

    return changed


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def half(found: dict[str, torch.Tensor], name: str) -> None:
    found[name] = found[name][:2].clone()


def whole_numbers(found: dict[str, torch.Tensor], name: str) -> None:
    found[name] = found[name].to(torch.int32)


def infinite(found: dict[str, torch.Tensor], name: str) -> None:
    found[name][0, 0] = torch.inf


def other_revision(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_revision": "2"}))


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "rank": (config(r=8), "has r = 8, and adapter.r is 4; both must be equal"),
    "alpha": (config(lora_alpha=16), "has lora_alpha = 16, and adapter.lora_alpha is 8; both must be equal"),
    "model": (config(base_model_name_or_path="other"), 'belongs to the base model "other", and this is "/'),
    "revision": (other_revision, 'was made on revision "2" of the base model, and this is "1"'),
    "dora": (config(use_dora=True), "has use_dora = true; it must not be set, since users' adapters are plain LoRA"),
    "scale": (config(use_rslora=True), "has use_rslora = true; it must not be set"),
    "ranks": (config(rank_pattern={"q_proj": 2}), 'has rank_pattern = {"q_proj": 2}; it must not be set'),
    "bias": (config(bias="all"), 'has bias = "all"; it must be "none"'),
    "kind": (config(peft_type="IA3"), 'has peft_type = "IA3"; it must be "LORA"'),
    "later": (config(of_a_later_peft=1), "has of_a_later_peft = 1; it must not be set"),
    "pissa": (config(init_lora_weights="pissa"), 'made with init_lora_weights = "pissa", which belongs to a changed'),
    "no-config": (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json is missing; needed"),
    "no-json": (lambda folder: (folder / "adapter_config.json").write_text("[]"), "json is not a JSON object"),
    "pickle": (pickled, "adapter_model.safetensors is missing; needed: the folder of a PEFT adapter, in safetensors"),
    "torn": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\0" * 9),
        "adapter_model.safetensors is not a whole file of safetensors",
    ),
    "lacking": (tensors(lambda found, name: found.pop(name)), "lacks the tensor base_model.model.model.layers.0."),
    "more": (tensors(lambda found, name: found.update(more=torch.ones(2))), "has the tensor more, one of 1: users'"),
    "shape": (tensors(half), "of shape (2, "),
    "format": (tensors(whole_numbers), "in int32, needed: (4, "),
    "infinite": (tensors(infinite), "with numbers that are not finite"),
}


@pytest.mark.parametrize(("change", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_whatever_is_different_is_refused_with_its_sentence(
    resident: ResidentModel, tmp_path: Path, change: Callable[[Path], None], sentence: str
) -> None:
    folder = published(resident, tmp_path / "start")
    change(folder)
    with pytest.raises(ConfigurationError) as refused:
        load_start(folder, resident.layout, resident.info)
    assert str(refused.value).startswith(f"adapter.start_path: {folder}")
    assert sentence in str(refused.value)
    assert refused.value.exit_code is ExitCode.CONFIGURATION
