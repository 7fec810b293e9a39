"""Modules carry LoRA if a training pass calls them and PEFT loads them again; the others are named with the reason."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from corlld.adapters.layout import AdapterLayout
from corlld.errors import ConfigurationError
from corlld.learning.model import adapted_modules
from corlld.learning.model.adapted_modules import AdaptedModules, adapt_modules
from corlld.learning.model.linear_modules import choose_modules
from corlld.learning.model.peft_twin import PeftTwin
from corlld.settings.sections import AdapterSettings
from tests.support.odd_families import (
    Config,
    build,
    deepseek_v3,
    falcon,
    falcon_h1,
    gemma3,
    glm4_moe,
    gpt2,
    jetmoe,
    llama,
    llama4_text,
    mamba,
    mixtral,
    phimoe,
    qwen3_moe,
    qwen3_moe_sparse_steps,
)
from tests.support.tiny_models import FAMILIES, make_tiny_model

SEEN = tuple(range(5, 25))
DENSE = ("mlp.down_proj", "mlp.gate_proj", "mlp.up_proj")
SHARED = ("mlp.shared_experts.down_proj", "mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj")
NOT_LOADED = "PEFT does not load an adapter there in this model"
NOT_CALLED = "not called in a training pass"


def adapt(model: Any, *targets: str) -> AdaptedModules:
    return adapt_modules(model, SEEN, AdapterSettings(r=4, target_modules=targets or "all-linear"))


def kinds(names: Any) -> tuple[str, ...]:
    """Return the names inside of a layer, sorted."""
    return tuple(sorted({name.partition(".layers.")[2].partition(".")[2] or name for name in names}))


@pytest.mark.parametrize(
    ("family", "adapted", "left_out"),
    [
        (llama, 14, {}),
        (gpt2, 8, {}),
        (falcon, 8, {}),  # its linear class has a forward of its own that computes the same
        (mixtral, 8, {}),
        (jetmoe, 6, {}),  # its attention's experts are called `experts`, and have routers
        (glm4_moe, 8, {NOT_LOADED: tuple(sorted((*DENSE, *SHARED)))}),
        (deepseek_v3, 10, {NOT_LOADED: tuple(sorted((*DENSE, *SHARED)))}),
        (qwen3_moe, 8, {NOT_LOADED: DENSE}),
        (qwen3_moe_sparse_steps, 8, {NOT_LOADED: DENSE}),
        (mamba, 4, {NOT_LOADED: ("mixer.out_proj",), NOT_CALLED: ("mixer.dt_proj",)}),
        (falcon_h1, 16, {NOT_LOADED: ("mamba.out_proj",)}),
        (phimoe, 8, {"PhimoeTopKRouter computes in a way of its own": ("mlp.router",)}),
        (llama4_text, 14, {"Llama4Router computes in a way of its own": ("feed_forward.router",)}),
    ],
)
def test_what_is_not_trained_or_not_loaded_is_left_out_with_its_reason(
    family: Config, adapted: int, left_out: dict[str, tuple[str, ...]]
) -> None:
    found = adapt(build(family))
    assert {own.reason: kinds(own.modules) for own in found.left_out} == left_out
    assert len(found.layout.modules) == adapted
    names = {module.name for module in found.layout.modules}
    assert not any(name in names for own in found.left_out for name in own.modules)


def test_the_vision_tower_of_a_wrapper_is_left_out() -> None:
    found = adapt(build(gemma3))
    (tower,) = found.left_out
    assert tower.reason == NOT_CALLED
    assert all(name.startswith("model.vision_tower.") for name in tower.modules)
    assert all(module.name.startswith("model.language_model.layers.") for module in found.layout.modules)
    assert len(found.layout.modules) == 14
    (sentence,) = found.sentences()
    assert sentence.startswith(
        "9 linear modules carry no LoRA (not called in a training pass): mlp.fc1, mlp.fc2, self_attn.k_proj, "
        "self_attn.out_proj, self_attn.q_proj, self_attn.v_proj in model.vision_tower.encoder.layers; "
    )


def test_routed_experts_are_named_with_their_share_of_the_model() -> None:
    model = build(mixtral)
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    whole = sum(p.numel() for p in model.parameters())
    assert experts > whole / 2
    assert adapt(model).sentences() == [
        f"routed experts carry no LoRA: {experts:,} of the model's {whole:,} numbers ({experts / whole:.0%}) stay as "
        "they are"
    ]


# As `store.json` has them: with another layout, stores of older versions of corlld would be refused.
LAYOUTS = {"llama": "427e84bf7588e60c", "qwen2": "427e84bf7588e60c", "qwen3": "427e84bf7588e60c"}
LAYOUTS |= {"gemma3": "16f69e029076b6d2", "gpt2": "672f37c97f402ea3"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_is_adapted_whole_keeps_its_layout(tmp_path: Path, family: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_tiny_model(tmp_path, family)).requires_grad_(False)
    found = adapt_modules(model, SEEN, AdapterSettings(r=4, lora_alpha=8))
    assert found.layout == AdapterLayout(4, 8, choose_modules(model, "all-linear"))
    assert found.layout.fingerprint == LAYOUTS[family]
    assert found.sentences() == []


def test_a_module_that_a_family_keeps_in_a_wider_dtype_is_left_out() -> None:
    model = build(llama).bfloat16()
    for layer in model.model.layers:
        layer.mlp.gate_proj.float().register_forward_pre_hook(lambda _, x: (x[0].float(),))
        layer.mlp.gate_proj.register_forward_hook(lambda _, x, y: y.bfloat16())
    found = adapt(model)
    assert {part.reason: kinds(part.modules) for part in found.left_out} == {"kept in float32": ("mlp.gate_proj",)}
    assert len(found.layout.modules) == 12
    with pytest.raises(ConfigurationError, match=r"'gate_proj' can't be adapted: kept in float32"):
        adapt(model, "gate_proj", "q_proj")


@pytest.mark.parametrize("family", [llama, glm4_moe, mamba, gemma3])
def test_the_model_is_the_same_afterwards(family: Config) -> None:
    model = build(family)
    modules, tensors = list(model.named_modules()), {name: t.clone() for name, t in model.state_dict().items()}
    ids = torch.tensor([SEEN])
    before = model(input_ids=ids, use_cache=False).logits
    generator = torch.get_rng_state()
    adapt(model)
    assert list(model.named_modules()) == modules
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(input_ids=ids, use_cache=False).logits, before)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(
    ("family", "targets", "sentence"),
    [
        (llama, ("lm_head",), "'lm_head' is the output layer, which can carry no adapter; leave it out"),
        (llama, ("q_proj", "lm_head"), "'lm_head' is the output layer"),
        (llama, ("q_proj", "embed_tokens"), "'embed_tokens' is an embedding, which can carry no adapter"),
        (phimoe, ("q_proj", "router"), "'router' is a PhimoeTopKRouter, which computes in a way of its own"),
        (mamba, ("in_proj", "out_proj"), f"'out_proj' can't be adapted: {NOT_LOADED}"),
        (glm4_moe, ("q_proj", "up_proj"), f"'up_proj' can't be adapted: {NOT_LOADED}"),
        (gemma3, ("q_proj", "fc1"), f"'fc1' can't be adapted: {NOT_CALLED}"),
    ],
)
def test_a_named_module_that_cannot_be_adapted_is_refused(
    family: Config, targets: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        adapt(build(family), *targets)
    assert str(caught.value).startswith(f"adapter.target_modules: {sentence}")


def test_a_name_that_fits_modules_of_both_kinds_is_adapted_where_that_can_be() -> None:
    found = adapt(build(gemma3), "q_proj")
    assert kinds(module.name for module in found.layout.modules) == ("self_attn.q_proj",)
    assert len(found.layout.modules) == 2
    assert [own.reason for own in found.left_out] == [NOT_CALLED]


def test_a_model_whose_attention_peft_does_not_load_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PeftTwin, "lost", lambda twin: {m.name for m in twin.layout.modules if "attn" in m.name})
    with pytest.raises(ConfigurationError, match=rf"model\.name: its attention can't be adapted: {NOT_LOADED}"):
        adapt(build(llama))


def test_a_model_of_which_nothing_is_left_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PeftTwin, "lost", lambda twin: {module.name for module in twin.layout.modules})
    with pytest.raises(ConfigurationError, match=rf"none of its linear modules can be adapted: {NOT_LOADED}"):
        adapt(build(llama))


def test_a_model_of_which_peft_would_adapt_more_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PeftTwin, "lost", lambda _: {"model.tower.q_proj"})
    with pytest.raises(ConfigurationError, match=r"PEFT would also adapt other modules of it: model\.tower\.q_proj"):
        adapt(build(llama))


def test_a_model_that_peft_refuses_as_a_whole_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_alone(model: Any, layout: AdapterLayout) -> PeftTwin:
        if len(layout.modules) > 2:
            raise ValueError("not so many")
        return PeftTwin(model, layout)

    monkeypatch.setattr(adapted_modules, "PeftTwin", only_alone)
    with pytest.raises(ConfigurationError, match=r"model\.name: PEFT loads no adapter for it: not so many"):
        adapt(build(llama))


class QuantisedLinear(nn.Linear):
    """As bitsandbytes and fp8 have them: integers in place of the weights, and a forward pass that knows the scale."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False)
        self.scale = plain.weight.abs().max() / 127
        self.weight = nn.Parameter((plain.weight / self.scale).round().to(torch.int8), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale)


class DoublingLinear(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(2 * x)


@pytest.mark.parametrize("kind", [QuantisedLinear, DoublingLinear])
def test_a_linear_class_that_computes_something_else_is_left_out(kind: type[nn.Linear]) -> None:
    model = build(llama)
    for layer in model.model.layers:
        plain = layer.mlp.up_proj
        layer.mlp.up_proj = QuantisedLinear(plain) if kind is QuantisedLinear else kind(32, 64, bias=False)
    model.requires_grad_(False)
    (left_out,) = adapt(model).left_out
    assert left_out.reason == f"{kind.__name__} computes in a way of its own"
    assert kinds(left_out.modules) == ("mlp.up_proj",)


def test_a_kind_of_which_some_see_a_part_of_the_tokens_is_left_out_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(mlp: Any, x: torch.Tensor) -> torch.Tensor:
        parts = x.split(7, dim=1) if mlp.routes else [x]
        up = torch.cat([mlp.up_proj(part) for part in parts], dim=1)
        y: torch.Tensor = mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * up)
        return y

    model = build(llama)
    monkeypatch.setattr(LlamaMLP, "forward", forward)
    model.model.layers[0].mlp.routes, model.model.layers[1].mlp.routes = True, False
    (routed,) = adapt(model).left_out
    assert routed.modules == ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj")
    assert routed.reason == "not called once with each token of a text"


def test_experts_are_left_out_whichever_of_them_the_tokens_meet() -> None:
    model = build(llama)
    for layer in model.model.layers:
        layer.mlp = Experts(layer.mlp)
    (routed,) = adapt(model).left_out
    assert kinds(routed.modules) == tuple(f"mlp.experts.{number}.{name[4:]}" for number in (0, 1) for name in DENSE)


class Experts(nn.Module):
    """Experts of which the first meets each token, by chance."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.experts = nn.ModuleList([mlp, copy.deepcopy(mlp)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.experts[0](x)
        return y
