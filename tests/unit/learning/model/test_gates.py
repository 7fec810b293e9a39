import copy
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from corlld.learning.model.gates import fuse_gates, gated
from tests.support.tiny_models import make_tiny_model


def test_value_and_gradients_are_those_of_the_formula_and_the_inputs_alone_are_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn(3, 5, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)]
    theirs = [t.detach().clone().requires_grad_() for t in ours]
    upstream = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        found = gated(*ours, nn.SiLU())
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in ours}
    expected = nn.functional.silu(theirs[0]) * theirs[1]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)
    torch.autograd.backward(found, upstream)
    torch.autograd.backward(expected, upstream)
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-14)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_every_gated_module_of_a_family_is_replaced_and_the_model_computes_the_same(
    tmp_path: Path, family: str
) -> None:
    folder = make_tiny_model(tmp_path, family)
    plain, fused = (AutoModelForCausalLM.from_pretrained(folder).eval() for _ in range(2))
    assert fuse_gates(fused) == plain.config.num_hidden_layers
    ids = torch.arange(10, 40)[None]
    with torch.no_grad():
        assert torch.equal(fused(input_ids=ids).logits, plain(input_ids=ids).logits)


@pytest.mark.parametrize("keep_product", [False, True])
def test_the_product_is_computed_again_for_what_it_is_multiplied_with(keep_product: bool) -> None:
    """The weight of `down_proj` has a gradient here, as an adapter's factors have: it needs its input."""
    torch.manual_seed(0)
    module = Gated().double()
    plain = copy.deepcopy(module)
    assert fuse_gates(nn.Sequential(module), keep_product=keep_product) == 1
    x = torch.randn(1, 5, 4, dtype=torch.float64)
    products: list[weakref.ref[torch.Tensor]] = []
    seen = module.down_proj.register_forward_pre_hook(lambda _, inputs: products.append(weakref.ref(inputs[0])))
    found = module(x)
    seen.remove()
    assert (products[0]() is not None) == keep_product
    found.sum().backward()
    plain(x).sum().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, plain.get_parameter(name).grad, rtol=0, atol=1e-14)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 4)
        self.act_fn = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return y


def test_a_module_that_only_looks_alike_is_left_alone() -> None:
    class Twisted(Gated):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.down_proj(self.gate_proj(x) * self.act_fn(self.up_proj(x)))
            return y

    assert fuse_gates(nn.Sequential(Twisted())) == 0
