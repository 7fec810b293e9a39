"""Attention inside the texts of a packed row. Texts that lie end to end in one row must not see each other.

A row of one prompt (p) and two tails, chosen (c) and rejected (r), where x marks what a token sees:

                       prompt    chosen   rejected
                       p p p p   c c c    r r
    position           0 1 2 3   4 5 6    4 5

    prompt        p    x . . .   . . .    . .
                  p    x x . .   . . .    . .
                  p    x x x .   . . .    . .
                  p    x x x x   . . .    . .
    chosen        c    x x x x   x . .    . .
                  c    x x x x   x x .    . .
                  c    x x x x   x x x    . .
    rejected      r    x x x x   . . .    x .
                  r    x x x x   . . .    x x

Each block of columns is a *segment*: tokens that lie end to end, and that a text has whole or not at all. A *prompt* is
the segments that a text begins with. A *tail* is its last segment. Prompts that begin alike share their first segment,
and each adds its own rest, if any; see `packing`.

The function is registered with transformers' `AttentionInterface`; the model hands over queries, keys and values of the
whole row. Nothing is quadratic in the row: each text attends to itself alone.
"""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from transformers import AttentionInterface

from corlld.learning.model.short_attention import PlacedTail, Product, Segment, short_attention

# The longest product that is computed plainly on a CPU. At 512 tokens plain products are still ahead of torch's fused
# kernel (by a sixth in float32, twice as fast in bfloat16), but what they keep grows quadratically.
LONGEST_SHORT = 512

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Tail:
    """A tail and its prompt, by the numbers of their segments in the row.

    segments: in the order of the text; the last one is the tail's.
    own: how many of the last ones are computed with this tail. The others are computed with a tail before it, whose
        prompt begins with them.
    """

    segments: tuple[int, ...]
    own: int


@dataclass(frozen=True, eq=False)
class Segments:
    """The segments of a row of T tokens, and what sees what.

    lengths: tokens of each segment, end to end; they add up to T. tails: their own segments, one after the other, are
    the whole row.
    """

    lengths: tuple[int, ...]
    tails: tuple[Tail, ...]
    _masks: dict[tuple[object, ...], torch.Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def products(self) -> tuple[Product, ...]:
        """The products that compute the row's attention.

        Tails whose prompts begin alike share a product unless that is too long. Parts of it that don't see each other
        are computed for nothing, but that costs less than more calls would.
        """
        found = []
        for tails in self._by_beginning():
            placed = [self._placed(tail) for tail in tails]
            whole = (placed[0].segments[0][0], placed[-1].segments[-1][1])
            if len(placed) > 1 and whole[1] - whole[0] <= LONGEST_SHORT:
                found.append(Product(whole, (whole,), tuple(placed)))
            else:
                found += [Product((t.segments[-1][1] - t.asked, t.segments[-1][1]), t.segments, (t,)) for t in placed]
        return tuple(found)

    def _by_beginning(self) -> list[list[Tail]]:
        """Group the tails whose prompts begin with the same segment. The first tail of a group computes it."""
        groups: list[list[Tail]] = []
        for tail in self.tails:
            if tail.own == len(tail.segments):
                groups.append([])
            groups[-1].append(tail)
        return groups

    def _placed(self, tail: Tail) -> PlacedTail:
        bounds = self._bounds
        placed: list[Segment] = []
        for number in tail.segments:
            # Segments that lie end to end are one from here on.
            start = placed.pop()[0] if placed and placed[-1][1] == bounds[number] else bounds[number]
            placed.append((start, bounds[number + 1]))
        return PlacedTail(tuple(placed), bounds[tail.segments[-1] + 1] - bounds[tail.segments[-tail.own]])

    @cached_property
    def _bounds(self) -> list[int]:
        return list(accumulate(self.lengths, initial=0))

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest text: a prompt and its tail."""
        return max(sum(self.lengths[number] for number in tail.segments) for tail in self.tails)

    def mask(self, queries: int, keys: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """Return the additive mask, (queries, keys), of queries at the end of the keys. Made once for all layers."""
        place = (queries, keys, window)
        if place not in self._masks:
            self._masks[place] = causal_mask(queries, keys, window, like)
        return self._masks[place]

    def product_mask(self, product: Product, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
        """Return the additive mask of a product, (queries, keys); None if all is seen."""
        if len(product.tails) == 1:
            queries, keys = product.tails[0].asked, sum(end - first for first, end in product.keys)
            seen = queries == 1 and (window is None or keys <= window)
            return None if seen else self.mask(queries, keys, window, like)
        place = (product, window)
        if place not in self._masks:
            self._masks[place] = _tails_mask(product, window, like)
        return self._masks[place]


def causal_mask(queries: int, keys: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """Return a mask, (queries, keys), of the dtype and device of `like`: 0 where a query sees a key, else -inf.

    The queries are the last of the keys' tokens. window: how many tokens a query sees, itself included.
    """
    distance = torch.arange(keys - queries, keys, device=like.device)[:, None] - torch.arange(keys, device=like.device)
    hidden = distance < 0
    if window is not None:
        hidden |= distance >= window
    return torch.zeros(queries, keys, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))


def _tails_mask(product: Product, window: int | None, like: torch.Tensor) -> torch.Tensor:
    first, end = product.queries
    mask = torch.full((end - first, end - first), float("-inf"), dtype=like.dtype, device=like.device)
    for tail in product.tails:
        places = torch.cat([torch.arange(a - first, b - first, device=like.device) for a, b in tail.segments])
        mask[places[-tail.asked :, None], places] = causal_mask(tail.asked, len(places), window, like)
    return mask


class SegmentAttention:
    """The attention function of one resident model. `bind` gives it the segments of the row of the next passes.

    With nothing bound each row of a batch is one text. Padding may follow a text, but not precede it.
    """

    def __init__(self) -> None:
        self.name = f"corlld_segments_{next(_numbers)}"
        self._bound: Segments | None = None
        AttentionInterface.register(self.name, self)

    @contextlib.contextmanager
    def bind(self, segments: Segments | None) -> Iterator[None]:
        """Use these segments for the passes inside, backward ones included: layers may be computed again there."""
        before, self._bound = self._bound, segments
        try:
            yield
        finally:
            self._bound = before

    def __call__(
        self,
        _module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        **others: Any,
    ) -> tuple[torch.Tensor, None]:
        """Query (B, heads, T, head), key (B, fewer, T, head), value (B, fewer, T, width) -> (B, T, heads, width).

        s_aux: transformers' name for sinks, (heads,): what a head's softmax counts beside the scores, as in gpt-oss.

        Raises:
            ValueError: the model passes a mask, or wants a kind of attention that is not computed here.
        """
        unknown = [name for name in ("position_bias", "head_mask") if others.get(name) is not None]
        if attention_mask is not None or others.get("dropout") or unknown:
            raise ValueError(f"attention with a mask, dropout or {unknown} is not computed by segments")
        segments = self._bound or Segments((query.shape[2],), (Tail((0,), 1),))
        short = query.shape[0] == 1 and segments.longest <= LONGEST_SHORT and query.device.type != "cuda"
        if short and softcap is None and s_aux is None:
            mask = partial(segments.product_mask, window=sliding_window, like=query)
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            return short_attention(query, key, value, segments.products, mask, scale), None
        queries, keys, values = (torch.split(t, list(segments.lengths), dim=2) for t in (query, key, value))
        outputs = []
        for tail in segments.tails:
            q = _joined(queries, tail.segments[-tail.own :])
            k, v = (_joined(parts, tail.segments) for parts in (keys, values))
            outputs.append(_attend(segments, q, k, v, scaling, sliding_window, softcap, s_aux).transpose(1, 2))
        return torch.cat(outputs, dim=1), None


def _joined(parts: tuple[torch.Tensor, ...], numbers: tuple[int, ...]) -> torch.Tensor:
    chosen = [parts[number] for number in numbers]
    return chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=2)


def _attend(
    segments: Segments,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    queries, keys = query.shape[2], key.shape[2]
    if window is not None and keys <= window:
        window = None
    if softcap is not None or sinks is not None:
        return _by_products(query, key, value, scaling, softcap, sinks, segments.mask(queries, keys, window, query))
    whole = queries == keys and window is None
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if whole else segments.mask(queries, keys, window, query),
        is_causal=whole,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Attend in ways that no fused kernel of torch knows.

    softcap: c, for scores c tanh(s / c) in place of s, as in Gemma 2. sinks: (heads,), one more score of each query,
    which takes a share of the attention and adds nothing, as in gpt-oss.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    # (B, heads, queries, keys)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores + mask
    if sinks is not None:
        scores = torch.cat([scores, sinks.view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)], dim=-1)
    shares = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    return shares[..., : key.shape[2]] @ value
