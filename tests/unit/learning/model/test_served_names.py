"""Adapters of a model that was loaded as another class than engines serve have the names of the served class."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
import torch
from peft import PeftModel
from safetensors.torch import load

from corlld.adapters.layout import AdapterLayout, AdapterTensors, LoraModule
from corlld.adapters.peft_config import published_name
from corlld.durable import ModuleNames
from corlld.errors import ConfigurationError
from corlld.learning.model.loading import load_resident_model
from corlld.learning.model.served_names import refuse_modules_outside
from corlld.publishing.peft_format import CONFIG_FILE, TENSORS_FILE, adapter_files
from corlld.settings.sections import AdapterSettings, ModelSettings, PublishingSettings
from tests.support.states import adapter, released_state
from tests.support.tiny_models import make_tiny_model
from tests.support.tiny_wrappers import make_tiny_wrapper

# PEFT 0.21 asks transformers 5 for a property by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ADAPTER = AdapterSettings(r=4, target_modules=("q_proj", "o_proj", "down_proj"))
SEEN = torch.tensor([[1, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40]])


def model(folder: Path) -> ModelSettings:
    return ModelSettings(name=str(folder), device="cpu")


def names(folder: Path, publishing: PublishingSettings | None = None) -> ModuleNames | None:
    return load_resident_model(model(folder), ADAPTER, publishing or PublishingSettings()).info.module_names


def named(folder: Path, *architectures: str) -> Path:
    """Change the class that the model's config.json names."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": list(architectures)}))
    return folder


@pytest.mark.parametrize(
    ("family", "published"), [("llama4", "language_model.model"), ("qwen3_5", "model.language_model")]
)
@torch.no_grad()
def test_peft_loads_an_adapter_into_the_wrapper_that_engines_serve(tmp_path: Path, family: str, published: str) -> None:
    folder, served = make_tiny_wrapper(tmp_path / "model", family)
    resident = load_resident_model(model(folder), ADAPTER, PublishingSettings())
    assert type(resident.model) is not served
    assert resident.info.module_names == ModuleNames("model", published)
    tensors = adapter(resident.layout)
    state = released_state(layout=resident.layout, module_names=resident.info.module_names)
    state = replace(state, adapter=replace(tensors, weights=0.05 * tensors.weights))
    assert isinstance(state.adapter, AdapterTensors)
    files = adapter_files(state, resident.layout, resident.info)
    assert {name.split(".layers.")[0] for name in load(files[TENSORS_FILE])} == {f"base_model.model.{published}"}
    targets = json.loads(files[CONFIG_FILE])["target_modules"]
    assert {name.split(".layers.")[0] for name in targets} == {published}

    with resident.lora.bind(resident.lora.stack(state.adapter.weights[None]), [SEEN.numel()]):
        expected = resident.model(input_ids=SEEN, use_cache=False).logits.log_softmax(-1)
    wrapper = served.from_pretrained(folder, dtype=torch.float32).eval()
    base = wrapper(input_ids=SEEN).logits.log_softmax(-1)
    (tmp_path / "adapter").mkdir()
    for name, data in files.items():
        (tmp_path / "adapter" / name).write_bytes(data)
    loaded = PeftModel.from_pretrained(wrapper, tmp_path / "adapter").eval()
    got = loaded(input_ids=SEEN).logits.log_softmax(-1)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert (expected - base).abs().max() > 0.01


def test_a_model_that_is_served_as_it_was_loaded_keeps_its_names(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    assert names(folder) is None
    assert names(named(folder)) is None, "no class named: the config itself is the loaded class's"
    assert names(named(folder, "LlamaModel")) is None, "served with an output layer, as it was loaded"


@pytest.mark.parametrize("spelt", ["LLaMAForCausalLM", "Llama_ForCausalLM", "InternLM3ForCausalLM"])
def test_a_class_that_is_only_called_otherwise_is_the_one_that_was_loaded(tmp_path: Path, spelt: str) -> None:
    # Repositories with code of their own name their own classes; their config is the loaded class's, so no wrapper.
    with structlog.testing.capture_logs() as logs:
        assert names(named(make_tiny_model(tmp_path), spelt)) is None
    warned = [log["log_level"] for log in logs if log["event"] == "served_class_unknown"]
    assert warned == ["warning"] * (spelt == "InternLM3ForCausalLM")


def test_the_setting_wins(tmp_path: Path) -> None:
    folder = named(make_tiny_model(tmp_path), "UnheardOfForCausalLM")
    publishing = PublishingSettings(module_prefix="language_model.model")
    assert names(folder, publishing) == ModuleNames("model", "language_model.model")


def test_a_served_class_that_is_not_known_is_refused_with_what_to_set(tmp_path: Path) -> None:
    wrapper, _ = make_tiny_wrapper(tmp_path / "wrapper", "qwen3_5")
    folder = named(wrapper, "UnheardOfForConditionalGeneration")
    with pytest.raises(
        ConfigurationError,
        match=r"^publishing\.module_prefix: not set, needed: .*UnheardOf.*such as model\.layers\.0\.\S+_proj.*`model`",
    ):
        names(folder)
    assert names(folder, PublishingSettings(enabled=False)) is None, "nothing is published"
    with pytest.raises(ConfigurationError, match=r"publishing\.module_prefix: .*served as a class not named"):
        names(named(wrapper))


def test_a_served_class_of_another_config_is_not_known_either(tmp_path: Path) -> None:
    folder = named(make_tiny_model(tmp_path), "GPT2LMHeadModel")
    with pytest.raises(ConfigurationError, match=r"publishing\.module_prefix"):
        names(folder)


def test_a_module_outside_of_the_decoder_has_no_name_in_the_wrapper() -> None:
    layout = AdapterLayout(4, 8, (LoraModule("model.q_proj", 8, 8), LoraModule("head", 8, 8)))
    with pytest.raises(ConfigurationError, match=r"^adapter\.target_modules: head is outside of model"):
        refuse_modules_outside(layout, ModuleNames("model", "language_model.model"))
    with pytest.raises(ValueError, match="not part of model"):
        published_name("lm_head", ModuleNames("model", "language_model.model"))


def test_names_do_not_change_which_store_a_state_belongs_to(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    plain, prefixed = (
        load_resident_model(model(folder), ADAPTER, PublishingSettings(module_prefix=prefix)).info
        for prefix in (None, "language_model.model")
    )
    assert prefixed.fingerprint == plain.fingerprint
