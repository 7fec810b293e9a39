from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

from corlld.learning.model.norms import fuse_norms, rms_norm
from tests.support.tiny_models import make_tiny_model


def test_value_and_gradient_are_those_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    scale = torch.randn(7, generator=generator, dtype=torch.float64)
    upstream = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    found = rms_norm(ours, scale, 1e-3)
    expected = theirs * torch.rsqrt(theirs.pow(2).mean(-1, keepdim=True) + 1e-3) * scale
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    found.backward(upstream)  # type: ignore[no-untyped-call]  # untyped in torch
    expected.backward(upstream)  # type: ignore[no-untyped-call]  # untyped in torch
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("family", "per_layer"), [("llama", 2), ("qwen3", 4), ("gemma3", 6), ("gemma2", 4)])
def test_every_norm_of_a_family_is_replaced_and_the_model_computes_the_same(
    tmp_path: Path, family: str, per_layer: int, dtype: torch.dtype
) -> None:
    folder = make_tiny_model(tmp_path, family)
    plain, fused = (AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval() for _ in range(2))
    assert fuse_norms(fused) == per_layer * plain.config.num_hidden_layers + 1
    ids = torch.arange(10, 40)[None]
    with torch.no_grad():
        expected, found = (model(input_ids=ids, use_cache=False).logits.float() for model in (plain, fused))
    # Both round to bfloat16 along the way, at different places.
    difference = (found - expected).abs().mean() / expected.abs().mean()
    assert difference < (0.05 if dtype == torch.bfloat16 else 1e-5)


def test_weights_that_are_differences_from_one_are_added_to_it_in_float32() -> None:
    norm = Gemma3RMSNorm(64)
    torch.nn.init.constant_(norm.weight, 0.003)  # 1.003 is 1 in bfloat16
    norm.to(torch.bfloat16)
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    expected = norm(x)
    assert fuse_norms(norm) == 1
    assert (norm(x) == expected).float().mean() > 0.99


def test_a_norm_of_an_unknown_form_is_left_alone() -> None:
    class ShyRMSNorm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = torch.nn.Parameter(torch.full((8,), 0.5)), 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x) * self.weight

    class WideRMSNorm(ShyRMSNorm):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2, 8))

    model = torch.nn.Sequential(ShyRMSNorm(), WideRMSNorm(), torch.nn.LayerNorm(8))
    assert fuse_norms(model) == 0


def test_a_norm_that_ignores_its_weights_is_left_alone_also_while_they_are_one() -> None:
    class WeightlessRMSNorm(torch.nn.Module):  # FalconMamba's, for inputs of any width
        def __init__(self) -> None:
            super().__init__()
            self.eps = 1e-6
            self.register_buffer("weight", torch.ones(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    assert fuse_norms(WeightlessRMSNorm()) == 0
