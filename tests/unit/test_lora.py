from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from corlld.errors import ConfigurationError
from corlld.learning.adapter import AdapterLayout, AdapterTensors
from corlld.learning.slots import SlotArena
from corlld.learning.stacked_lora import StackedLora, adds_nothing, choose_modules, new_adapter
from tests.tiny_models import FAMILIES, make_tiny_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp(request.param), request.param)


def load(folder: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(10, 30)[None], use_cache=False).logits
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
    loud = torch.randn(layout.size, generator=torch.Generator().manual_seed(0))
    with lora.bind(lora.weights(loud)):
        assert not torch.allclose(logits(model), logits(untouched), atol=0.1)
        with lora.bind(None):
            assert torch.equal(logits(model), logits(untouched))
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
    with lora.bind(lora.weights(flat)):
        torch.testing.assert_close(logits(model), logits(merged), rtol=1e-4, atol=1e-4)


def test_gradients_arrive_in_one_flat_vector_that_autograd_adds_to_in_place(folder: Path) -> None:
    model = load(folder)
    layout = AdapterLayout(4, 8, choose_modules(model, "all-linear"))
    lora = StackedLora(model, layout)
    flat, gradient = torch.randn(layout.size) * 0.1, torch.zeros(layout.size)
    leaves = lora.leaves(flat, gradient)
    for times in (1, 2):
        with lora.bind(leaves):
            model(input_ids=torch.arange(10, 30)[None], use_cache=False).logits.square().mean().backward()
        if times == 1:
            once = gradient.clone()
    assert once.norm() > 0
    torch.testing.assert_close(gradient, 2 * once)
    assert all(
        leaf.grad is not None and leaf.grad.untyped_storage().data_ptr() == gradient.data_ptr()
        for pair in leaves
        for leaf in pair
    )


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


@pytest.fixture
def arena(tmp_path: Path) -> SlotArena:
    model = load(make_tiny_model(tmp_path, "llama"))
    return SlotArena(StackedLora(model, AdapterLayout(2, 2, choose_modules(model, ("q_proj",)))), 2, CPU)


def adapter_of(arena: SlotArena, value: float) -> AdapterTensors:
    size = arena.gradient.numel()
    weights, exp_avg, exp_avg_sq = (torch.full((size,), value + i) for i in range(3))
    return AdapterTensors(weights, exp_avg, exp_avg_sq, optimizer_step=int(value))


def test_an_adapter_that_lies_in_its_slot_is_not_copied_again(arena: SlotArena) -> None:
    ann = adapter_of(arena, 1)
    slot = arena.place("ann", ann)
    assert slot.weights.eq(1).all()
    assert slot.optimizer_step == 1
    slot.weights.fill_(5)  # would be lost by a copy
    assert arena.place("ann", ann).weights.eq(5).all()
    assert arena.place("ann", adapter_of(arena, 1)).weights.eq(1).all()


def test_the_least_recently_used_slot_is_given_away(arena: SlotArena) -> None:
    ann, bob, cy = (adapter_of(arena, value) for value in (10, 20, 30))
    of_ann, of_bob = arena.place("ann", ann), arena.place("bob", bob)
    arena.place("ann", ann)
    assert arena.place("cy", cy) is of_bob
    assert of_bob.exp_avg_sq.eq(32).all()
    assert of_ann.exp_avg.eq(11).all()
    assert arena.place("bob", bob) is of_ann


def test_what_was_read_out_is_never_written_to_and_is_known_to_lie_in_its_slot(arena: SlotArena) -> None:
    slot = arena.place("ann", adapter_of(arena, 1))
    arena.touch(slot)
    slot.weights.fill_(7)
    slot.optimizer_step = 2
    read = arena.read(slot)
    assert read.weights.eq(7).all()
    assert read.optimizer_step == 2
    slot.weights.fill_(8)
    assert read.weights.eq(7).all()
    assert arena.place("ann", read).weights.eq(8).all()


def test_a_slot_whose_training_never_ended_is_copied_to_again(arena: SlotArena) -> None:
    ann = adapter_of(arena, 1)
    arena.touch(arena.place("ann", ann))
    arena.place("ann", ann).weights.fill_(9)
    arena.touch(arena.place("ann", ann))
    assert arena.place("ann", ann).weights.eq(1).all()


def test_more_slots_than_the_device_has_room_for_are_refused(tmp_path: Path) -> None:
    model = load(make_tiny_model(tmp_path, "llama"))
    lora = StackedLora(model, AdapterLayout(8, 8, choose_modules(model, "all-linear")))
    with pytest.raises(
        ConfigurationError, match=r"adapter\.device_slots: cpu has no room for 1000000000 slots of 0 MB"
    ):
        SlotArena(lora, 10**9, CPU)


def test_undo_gives_back_every_bit_and_the_step(arena: SlotArena) -> None:
    slot = arena.place("ann", adapter_of(arena, 3))
    arena.save_undo(slot)
    for tensor in slot.tensors:
        tensor.fill_(float("nan"))
    slot.optimizer_step = 4
    arena.undo(slot)
    assert [float(tensor[0]) for tensor in slot.tensors] == [3, 4, 5]
    assert slot.optimizer_step == 3
