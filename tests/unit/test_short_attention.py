"""The two ways of attention by branches give the same, and the same gradient."""

import pytest
import torch

from corlld.learning import attention
from corlld.learning.attention import Branch, SegmentAttention, Segments

# A trunk, a tail and another one; a text of one token; a trunk whose second branch has a middle of its own.
SEGMENTS = Segments(
    (6, 3, 4, 1, 5, 2, 1, 3),
    (
        Branch((0, 1), 2),
        Branch((0, 2), 1),
        Branch((3,), 1),
        Branch((4, 5), 2),
        Branch((4, 6, 7), 2),
    ),
)
TOKENS = sum(SEGMENTS.lengths)
HEADS, KEY_HEADS, WIDTH = 6, 2, 5


def attend(monkeypatch: pytest.MonkeyPatch, longest: int, window: int | None) -> list[torch.Tensor]:
    monkeypatch.setattr(attention, "LONGEST_SHORT", longest)
    generator = torch.Generator().manual_seed(1)
    q, k, v = (
        torch.randn(1, TOKENS, heads, WIDTH, generator=generator, dtype=torch.float64).transpose(1, 2).requires_grad_()
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    )
    upstream = torch.randn(1, TOKENS, HEADS, WIDTH, generator=generator, dtype=torch.float64)
    function = SegmentAttention()
    with function.bind(SEGMENTS):
        out, _ = function(torch.nn.Identity(), q, k, v, None, scaling=0.7, sliding_window=window)
    gradients = torch.autograd.grad(out, (q, k, v), upstream)
    return [out.detach(), *gradients]


@pytest.mark.parametrize("window", [None, 1, 3, 8, 100])
def test_plain_products_give_what_the_fused_kernel_gives(monkeypatch: pytest.MonkeyPatch, window: int | None) -> None:
    fused, plain = (attend(monkeypatch, longest, window) for longest in (0, 100))
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    seen = fused if window != 1 else (fused[0], fused[3])  # who sees but itself has no say in its weights
    assert all(part.abs().max() > 0.1 for part in seen)


def test_only_rows_of_short_branches_are_computed_with_plain_products(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    plain = attention.short_attention
    monkeypatch.setattr(attention, "short_attention", lambda *args: (used.append(1), plain(*args))[1])
    assert SEGMENTS.longest == 10
    attend(monkeypatch, 9, None)
    assert not used
    attend(monkeypatch, 10, None)
    assert used


def test_a_mask_or_dropout_is_refused() -> None:
    function = SegmentAttention()
    t = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="is not computed by segments"):
        function(torch.nn.Identity(), t, t, t, torch.zeros(1, 1, 3, 3))
    with pytest.raises(ValueError, match="is not computed by segments"):
        function(torch.nn.Identity(), t, t, t, None, dropout=0.1)
