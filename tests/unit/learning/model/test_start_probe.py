"""The start refuses a model whose adapters would be published as something else than was trained."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from corlld.adapters.layout import AdapterLayout, AdapterTensors
from corlld.errors import ConfigurationError
from corlld.learning.model import resident as resident_model
from corlld.learning.model.adapted_modules import AdaptedModules
from corlld.learning.model.linear_modules import choose_modules
from corlld.learning.model.loading import load_resident_model
from corlld.learning.model.peft_twin import PeftTwin
from corlld.learning.model.resident import ResidentModel, make_resident
from corlld.learning.model.stacked_lora import StackedAdapters, StackedLora
from corlld.learning.model.start_probe import check_adapters
from corlld.publishing.peft_format import adapter_files
from corlld.settings.sections import AdapterSettings, ModelSettings
from tests.support.odd_families import (
    Config,
    build,
    deepseek_v3,
    falcon_h1,
    gemma3,
    glm4_moe,
    mamba,
    mixtral,
    qwen3_moe,
)
from tests.support.states import adapter, released_state
from tests.support.tiny_models import FAMILIES, make_tiny_model, make_tokenizer, tiny_resident

# PEFT 0.21 asks transformers 5 for a property by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SEEN = torch.arange(5, 25)[None]


def resident_of(family: Config) -> ResidentModel:
    return make_resident(build(family), make_tokenizer(), AdapterSettings(r=4), name="served", revision="1")


def all_modules(model: Any, _ids: object, settings: AdapterSettings) -> AdaptedModules:
    layout = AdapterLayout(settings.r, settings.lora_alpha, choose_modules(model, settings.target_modules))
    return AdaptedModules(layout, left_out=(), parameters=0, expert_parameters=0)


Stack = Callable[..., StackedAdapters]


def change_stack(monkeypatch: pytest.MonkeyPatch, changed: Callable[[Stack], Stack]) -> None:
    """Have the resident model use other factors or gradients than it was given."""
    monkeypatch.setattr(StackedLora, "stack", changed(StackedLora.stack))


def scaled(factor: float) -> Callable[[Stack], Stack]:
    def changed(stack: Stack) -> Stack:
        def stacked(*arguments: Any) -> StackedAdapters:
            adapters = stack(*arguments)
            return StackedAdapters([(a, factor * b) for a, b in adapters.factors], adapters.gradients)

        return stacked

    return changed


@pytest.mark.parametrize("family", [glm4_moe, deepseek_v3, qwen3_moe, mixtral, mamba, falcon_h1, gemma3])
@torch.no_grad()
def test_what_peft_loads_is_what_was_trained_where_modules_are_left_out(tmp_path: Path, family: Config) -> None:
    resident = resident_of(family)
    check_adapters(resident)
    tensors = adapter(resident.layout)
    state = replace(released_state(layout=resident.layout), adapter=replace(tensors, weights=0.1 * tensors.weights))
    assert isinstance(state.adapter, AdapterTensors)
    for name, data in adapter_files(state, resident.layout, resident.info).items():
        (tmp_path / name).write_bytes(data)
    with resident.lora.bind(resident.lora.stack(state.adapter.weights[None]), [SEEN.numel()]):
        expected = resident.model(input_ids=SEEN, use_cache=False).logits
    base = build(family)
    plain = base(input_ids=SEEN, use_cache=False).logits
    loaded = PeftModel.from_pretrained(base, tmp_path)(input_ids=SEEN, use_cache=False).logits
    torch.testing.assert_close(loaded, expected, rtol=1e-4, atol=1e-4)
    assert (expected - plain).abs().max() > 0.1


def test_modules_that_peft_drops_are_found_if_they_were_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident_model, "adapt_modules", all_modules)
    with pytest.raises(ConfigurationError, match=r"PEFT does not load an adapter for model\.layers\.0\.mlp"):
        check_adapters(resident_of(glm4_moe))


def test_the_model_is_the_same_after_the_probe() -> None:
    resident = resident_of(gemma3)
    before = {name: tensor.clone() for name, tensor in resident.model.state_dict().items()}
    forwards = {name: vars(module).get("forward") for name, module in resident.model.named_modules()}
    implementation = resident.model.config._attn_implementation
    check_adapters(resident)
    assert all(torch.equal(tensor, before[name]) for name, tensor in resident.model.state_dict().items())
    assert {name: vars(module).get("forward") for name, module in resident.model.named_modules()} == forwards
    assert resident.model.config._attn_implementation == implementation
    assert not any(parameter.requires_grad for parameter in resident.model.parameters())


def test_no_weight_is_copied_for_peft() -> None:
    resident = resident_of(mixtral)
    known = {tensor.data_ptr() for tensor in (*resident.model.parameters(), *resident.model.buffers())}
    twin = PeftTwin(resident.model, resident.layout)
    twin.load(torch.zeros(resident.layout.size))
    others = [tensor for tensor in twin._peft.parameters() if tensor.data_ptr() not in known]
    assert sum(tensor.numel() for tensor in others) == resident.layout.size


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_passes_the_probe(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    check_adapters(tiny_resident(make_tiny_model(tmp_path, family), dtype=dtype))


@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 1.01), (torch.bfloat16, 2.0), (torch.float16, 1.5)])
def test_adapters_that_score_otherwise_than_in_peft_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, factor: float
) -> None:
    resident = tiny_resident(make_tiny_model(tmp_path), dtype=dtype)
    change_stack(monkeypatch, scaled(factor))
    with pytest.raises(ConfigurationError, match="an adapter of this model scores differently where PEFT loads it"):
        check_adapters(resident)


def test_users_who_are_taken_for_each_other_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = tiny_resident(make_tiny_model(tmp_path))
    change_stack(monkeypatch, lambda stack: lambda lora, weights, gradient=None: stack(lora, weights.flip(0), gradient))
    with pytest.raises(ConfigurationError, match="scores differently where PEFT loads it"):
        check_adapters(resident)


def test_a_module_that_no_gradient_reaches_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = tiny_resident(make_tiny_model(tmp_path))

    def changed(stack: Stack) -> Stack:
        def stacked(*arguments: Any) -> StackedAdapters:
            adapters = stack(*arguments)
            if adapters.gradients is not None:
                a, b = adapters.gradients[3]
                adapters.gradients[3] = (a, b.clone())
            return adapters

        return stacked

    change_stack(monkeypatch, changed)
    with pytest.raises(ConfigurationError, match=r"no gradient reaches model\.layers\.0\.self_attn\.o_proj"):
        check_adapters(resident)


def test_the_start_makes_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tiny_model(tmp_path)
    change_stack(monkeypatch, scaled(1.01))
    with pytest.raises(ConfigurationError, match="scores differently where PEFT loads it"):
        load_resident_model(ModelSettings(name=str(folder), device="cpu"), AdapterSettings(r=4))
