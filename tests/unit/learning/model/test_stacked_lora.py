from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from corlld.adapters.layout import AdapterLayout, AdapterTensors, adds_nothing, new_adapter
from corlld.errors import ConfigurationError
from corlld.learning.model import stacked_lora
from corlld.learning.model.grouped import KernelGroups, LoopGroups, user_groups
from corlld.learning.model.linear_modules import choose_modules
from corlld.learning.model.stacked_lora import StackedLora
from tests.support.tiny_models import make_tiny_model

CPU = torch.device("cpu")
TOKENS = 20


def load(folder: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(10, 10 + TOKENS)[None], use_cache=False).logits
    return found


def test_all_linear_is_every_linear_module_but_the_output_head(folder: Path) -> None:
    model = load(folder)
    modules = choose_modules(model, "all-linear")
    names = [module.name for module in modules]
    assert not any("lm_head" in name for name in names)
    layers = model.config.num_hidden_layers
    per_layer = 4 if model.config.model_type == "gpt2" else 7
    assert len(names) == len(set(names)) == layers * per_layer
    for module in modules:
        weight = model.get_submodule(module.name).weight
        shape = (module.in_features, module.out_features)
        assert tuple(weight.shape) == (shape if module.transposed else shape[::-1])


def test_names_are_taken_by_their_end_and_unknown_ones_are_refused_with_those_that_exist(tmp_path: Path) -> None:
    model = load(make_tiny_model(tmp_path, "llama"))
    names = [module.name for module in choose_modules(model, ("q_proj", "model.layers.1.mlp.up_proj"))]
    expected = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"]
    assert names == expected
    with pytest.raises(ConfigurationError, match=r"no linear 'roj'; it has .*down_proj, .*v_proj"):
        choose_modules(model, ("q_proj", "roj"))


def test_injection_changes_no_name_no_parameter_and_no_output(folder: Path) -> None:
    untouched, model = load(folder), load(folder)
    layout = AdapterLayout(4, 8, choose_modules(model, "all-linear"))
    lora = StackedLora(model, layout)
    assert [n for n, _ in model.named_modules()] == [n for n, _ in untouched.named_modules()]
    assert torch.equal(logits(model), logits(untouched))
    loud = torch.randn(1, layout.size, generator=torch.Generator().manual_seed(0))
    with lora.bind(lora.stack(loud), [TOKENS]):
        assert not torch.allclose(logits(model), logits(untouched), atol=0.1)
        with lora.bind(None):
            assert torch.equal(logits(model), logits(untouched))
        assert not torch.allclose(logits(model), logits(untouched), atol=0.1)
    assert torch.equal(logits(model), logits(untouched))
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_an_adapter_equals_weights_merged_by_hand(folder: Path) -> None:
    model, merged = load(folder), load(folder)
    layout = AdapterLayout(4, 12, choose_modules(model, "all-linear"))
    lora = StackedLora(model, layout)
    flat = torch.randn(layout.size, generator=torch.Generator().manual_seed(0)) * 0.1
    for module, a, b in layout.views(flat):
        delta = (12 / 4) * b @ a  # (out, in)
        merged.get_submodule(module.name).weight += delta.T if module.transposed else delta
    with lora.bind(lora.stack(flat[None]), [TOKENS]):
        torch.testing.assert_close(logits(model), logits(merged), rtol=1e-4, atol=1e-4)


def test_gradients_are_added_to_each_users_vector_and_leave_those_without_tokens_untouched(folder: Path) -> None:
    model = load(folder)
    layout = AdapterLayout(4, 8, choose_modules(model, "all-linear"))
    lora = StackedLora(model, layout)
    flat, gradient = torch.randn(3, layout.size) * 0.1, torch.zeros(3, layout.size)
    adapters = lora.stack(flat, gradient)
    for times in (1, 2):
        with lora.bind(adapters, [12, 0, 8]):
            model(input_ids=torch.arange(10, 10 + TOKENS)[None], use_cache=False).logits.square().mean().backward()
        if times == 1:
            once = gradient.clone()
    assert once[0].norm() > 0
    assert once[2].norm() > 0
    assert not once[1].any()
    torch.testing.assert_close(gradient, 2 * once)


def test_a_pass_over_other_tokens_than_were_bound_is_refused(folder: Path) -> None:
    model = load(folder)
    layout = AdapterLayout(4, 8, choose_modules(model, "all-linear"))
    lora = StackedLora(model, layout)
    with lora.bind(lora.stack(torch.zeros(1, layout.size)), [7]), pytest.raises(ValueError, match="saw 20 of 7 tokens"):
        logits(model)


def test_a_backward_pass_through_adapters_without_gradients_is_refused(folder: Path) -> None:
    model = load(folder)
    layout = AdapterLayout(4, 8, choose_modules(model, "all-linear"))
    lora = StackedLora(model, layout)
    with lora.bind(lora.stack(torch.zeros(1, layout.size)), [TOKENS]):
        loss = model(input_ids=torch.arange(10, 10 + TOKENS)[None], use_cache=False).logits.sum()
        with pytest.raises(RuntimeError, match="stacked without gradients"):
            loss.backward()


def test_all_widths_of_the_injected_modules_decide_on_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(make_tiny_model(tmp_path, "llama"))
    layout = AdapterLayout(4, 8, choose_modules(model, ("k_proj", "up_proj")))
    lora, seen = StackedLora(model, layout), []
    monkeypatch.setattr(stacked_lora, "user_groups", lambda *arguments: seen.append(set(arguments[-1])))
    with lora.bind(lora.stack(torch.zeros(1, layout.size)), [TOKENS]):
        assert seen == [{4, 32, 16, 64}]  # hidden size, two key heads of 8, inner size


@pytest.mark.parametrize(
    ("device", "dtype", "widths", "kind"),
    [
        ("cuda", torch.bfloat16, (8, 640, 2048), KernelGroups),
        ("cuda", torch.bfloat16, (4, 640, 2048), LoopGroups),
        ("cuda", torch.bfloat16, (8, 640, 60), LoopGroups),  # a router of experts
        ("cuda", torch.float32, (8, 640, 2048), LoopGroups),
        ("cpu", torch.bfloat16, (8, 640, 2048), LoopGroups),
    ],
)
def test_the_grouped_kernel_is_used_where_it_exists_and_takes_all_widths(
    device: str, dtype: torch.dtype, widths: tuple[int, ...], kind: type
) -> None:
    with FakeTensorMode():
        assert type(user_groups([3, 2], torch.device(device), dtype, widths)) is kind


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_grouped_kernel_gives_what_the_loop_gives(dtype: torch.dtype) -> None:
    tokens, rank, wide = [5, 0, 16, 3], 8, 24
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    x, a, b = random(24, wide), random(4, rank, wide), random(4, wide, rank)
    loop, kernel = LoopGroups(tokens), KernelGroups(tokens, CPU)
    torch.testing.assert_close(kernel.products(x, a), loop.products(x, a))
    down, up = loop.products(x, a), loop.products(x, b.mT)
    outs = [x.clone(), x.clone()]
    for groups, out in zip((loop, kernel), outs, strict=True):
        groups.add_products_(out, down, b)
    torch.testing.assert_close(outs[0], outs[1], rtol=0.02, atol=0.05 if dtype == torch.bfloat16 else 1e-5)
    sums = [torch.ones(4, rank, wide), torch.ones(4, rank, wide)]
    for groups, out in zip((loop, kernel), sums, strict=True):
        groups.add_outer_(out, up, x, 0.5)
        groups.add_outer_(out.mT, x, up)  # a view
    assert sums[0][1].eq(1).all()
    torch.testing.assert_close(sums[0], sums[1], rtol=0.02, atol=0.05 if dtype == torch.bfloat16 else 1e-5)


def test_a_new_adapter_adds_nothing_and_is_the_same_for_whoever_makes_it(folder: Path) -> None:
    model = load(folder)
    layout = AdapterLayout(4, 8, choose_modules(model, "all-linear"))
    ours, theirs = new_adapter(layout, "ann", "r1"), new_adapter(layout, "ann", "r1")
    assert torch.equal(ours.weights, theirs.weights)
    assert ours.weights.dtype == torch.float32
    assert adds_nothing(layout, ours)
    for other in (new_adapter(layout, "bob", "r1"), new_adapter(layout, "ann", "r2")):
        assert not torch.equal(ours.weights, other.weights)
    for module, a, b in layout.views(ours.weights):
        bound = module.in_features**-0.5
        assert not b.any()
        assert a.abs().max() <= bound
        assert a.std() == pytest.approx(bound / 3**0.5, rel=0.3)  # uniform


def test_an_adapter_with_a_step_or_with_a_b_is_no_empty_one(folder: Path) -> None:
    layout = AdapterLayout(4, 8, choose_modules(load(folder), "all-linear"))
    new = new_adapter(layout, "ann", "r1")
    stepped = AdapterTensors(new.weights, new.exp_avg, new.exp_avg_sq, optimizer_step=1)
    imported = AdapterTensors(torch.ones_like(new.weights), new.exp_avg, new.exp_avg_sq, optimizer_step=0)
    assert not adds_nothing(layout, stepped)
    assert not adds_nothing(layout, imported)
