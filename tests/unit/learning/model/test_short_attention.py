"""The two ways of attention by segments give the same, and the same gradient."""

import pytest
import torch

from corlld.learning.model import attention
from corlld.learning.model.attention import SegmentAttention, Segments, Tail

# A prompt with two tails; a text of one token; three tails whose prompts begin alike, where the second prompt has a
# segment of its own, and the third tail is one token.
SEGMENTS = Segments(
    (6, 3, 4, 1, 5, 2, 1, 3, 1),
    (
        Tail((0, 1), 2),
        Tail((0, 2), 1),
        Tail((3,), 1),
        Tail((4, 5), 2),
        Tail((4, 6, 7), 2),
        Tail((4, 8), 1),
    ),
)
TOKENS = sum(SEGMENTS.lengths)
HEADS, KEY_HEADS, WIDTH, VALUE_WIDTH = 6, 2, 5, 3


def attend(
    monkeypatch: pytest.MonkeyPatch, longest: int, window: int | None, scaling: float | None = 0.7
) -> list[torch.Tensor]:
    monkeypatch.setattr(attention, "LONGEST_SHORT", longest)
    generator = torch.Generator().manual_seed(1)
    q, k, v = (
        torch.randn(1, TOKENS, heads, width, generator=generator, dtype=torch.float64).transpose(1, 2).requires_grad_()
        for heads, width in ((HEADS, WIDTH), (KEY_HEADS, WIDTH), (KEY_HEADS, VALUE_WIDTH))
    )
    upstream = torch.randn(1, TOKENS, HEADS, VALUE_WIDTH, generator=generator, dtype=torch.float64)
    function = SegmentAttention()
    with function.bind(Segments(SEGMENTS.lengths, SEGMENTS.tails)):
        with function.bind(None):
            pass  # and bound again afterwards
        out, _ = function(torch.nn.Identity(), q, k, v, None, scaling=scaling, sliding_window=window)
    gradients = torch.autograd.grad(out, (q, k, v), upstream)
    return [out.detach(), *gradients]


@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize("window", [None, 1, 3, 5, 8, 100])
@pytest.mark.parametrize("longest", [10, 100], ids=["tail-by-tail", "tails-together"])
def test_plain_products_give_what_the_fused_kernel_gives(
    monkeypatch: pytest.MonkeyPatch, longest: int, window: int | None, scaling: float | None
) -> None:
    fused, plain = (attend(monkeypatch, most, window, scaling) for most in (0, longest))
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    seen = fused if window != 1 else (fused[0], fused[3])  # who sees but itself has no say in its weights
    assert all(part.abs().max() > 0.1 for part in seen)


def test_only_rows_of_short_texts_are_computed_with_plain_products(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    plain = attention.short_attention
    monkeypatch.setattr(attention, "short_attention", lambda *args: (used.append(1), plain(*args))[1])
    assert SEGMENTS.longest == 10
    attend(monkeypatch, 9, None)
    assert not used
    attend(monkeypatch, 10, None)
    assert used


@pytest.mark.parametrize(("longest", "products"), [(11, 6), (12, 4), (13, 3)])
def test_tails_whose_prompts_begin_alike_are_computed_together_unless_that_is_too_long(
    monkeypatch: pytest.MonkeyPatch, longest: int, products: int
) -> None:
    monkeypatch.setattr(attention, "LONGEST_SHORT", longest)
    assert len(Segments(SEGMENTS.lengths, SEGMENTS.tails).products) == products


@pytest.mark.parametrize("unknown", ["attention_mask", "dropout", "position_bias", "head_mask"])
def test_attention_that_is_not_computed_here_is_refused(unknown: str) -> None:
    t = torch.zeros(1, 2, 3, 4)
    arguments = {"attention_mask": None, unknown: 0.1 if unknown == "dropout" else torch.zeros(1, 1, 3, 3)}
    with pytest.raises(ValueError, match="is not computed by segments"):
        SegmentAttention()(torch.nn.Identity(), t, t, t, **arguments)


@pytest.mark.parametrize("window", [None, 3])
def test_a_sink_takes_a_share_of_each_querys_attention_and_adds_nothing(window: int | None) -> None:
    generator = torch.Generator().manual_seed(2)
    q, k, v = (
        torch.randn(1, heads, 6, width, generator=generator, dtype=torch.float64)
        for heads, width in ((HEADS, WIDTH), (KEY_HEADS, WIDTH), (KEY_HEADS, VALUE_WIDTH))
    )
    sinks = torch.randn(HEADS, generator=generator, dtype=torch.float64)
    out, _ = SegmentAttention()(torch.nn.Identity(), q, k, v, None, scaling=0.7, sliding_window=window, s_aux=sinks)
    for head in range(HEADS):
        own = head * KEY_HEADS // HEADS  # its key head
        for place in range(6):
            seen = slice(0 if window is None else max(0, place - window + 1), place + 1)
            powers = torch.exp(0.7 * k[0, own, seen] @ q[0, head, place])
            expected = powers @ v[0, own, seen] / (powers.sum() + torch.exp(sinks[head]))
            torch.testing.assert_close(out[0, place, head], expected, rtol=0, atol=1e-12)
