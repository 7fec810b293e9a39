"""Attention over the segments of a packed row in plain matrix products.

On a CPU, where texts are short, that is faster than a fused kernel, most of all in bfloat16, and the graph has one node
for all products of a row. It is quadratic in the longest product: the attention weights are kept for the backward pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Segment = tuple[int, int]  # its first token's place in the row, and the place behind its last one


@dataclass(frozen=True, slots=True)
class PlacedTail:
    """A prompt and its tail, by their places in the row.

    segments: in the order of the text. asked: how many of the last tokens are queries.
    """

    segments: tuple[Segment, ...]
    asked: int


@dataclass(frozen=True, slots=True)
class Product:
    """Attention that is computed at once.

    For one tail, the keys are the tokens of its text in order. Several tails have the beginning of their prompts in
    common: then queries and keys are all of their tokens, and what a tail does not see is masked.
    """

    queries: Segment
    keys: tuple[Segment, ...]
    tails: tuple[PlacedTail, ...]


Mask = Callable[[Product], torch.Tensor | None]


def short_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    products: Sequence[Product],
    mask: Mask,
    scaling: float,
) -> torch.Tensor:
    """Query (1, heads, T, head), key (1, fewer, T, head), value (1, fewer, T, width) -> (1, T, heads, width).

    mask: returns a product's additive mask, (queries, keys); None if all is seen.
    """
    y: torch.Tensor = _ShortAttention.apply(query, key, value, products, mask, scaling)
    return y


class _ShortAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        products: Sequence[Product],
        mask: Mask,
        scaling: float,
    ) -> torch.Tensor:
        _, heads, tokens, _ = query.shape
        groups, width = key.shape[1], value.shape[-1]
        out = query.new_empty(1, tokens, heads, width)
        weights = []
        for product in products:
            q = _grouped(query, product.queries, groups)
            k, v = (_gathered(t, product.keys) for t in (key, value))
            scores = torch.bmm(q, k.mT)  # (fewer, heads / fewer * queries, keys)
            shape = scores.shape
            scores = scores.view(heads, -1, shape[-1])  # (heads, queries, keys)
            hidden = mask(product)
            scores = scores.mul_(scaling) if hidden is None else torch.add(hidden, scores, alpha=scaling)
            p = scores.softmax(-1).view(shape)
            first, end = product.queries
            out[0, first:end] = torch.bmm(p, v).view(heads, end - first, width).transpose(0, 1)
            weights.append(p)
        ctx.save_for_backward(query, key, value, *weights)
        ctx.products, ctx.scaling = products, scaling
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *weights = ctx.saved_tensors
        groups = key.shape[1]
        of_query, of_key, of_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        upstream = gradient.transpose(1, 2)
        for product, p in zip(ctx.products, weights, strict=True):
            q, g = (_grouped(t, product.queries, groups) for t in (query, upstream))
            k, v = (_gathered(t, product.keys) for t in (key, value))
            _add_at(of_value, product.keys, torch.bmm(p.mT, g))
            of_weights = torch.bmm(g, v.mT)
            along = (of_weights * p).sum(-1, keepdim=True)
            of_scores = of_weights.sub_(along).mul_(p).mul_(ctx.scaling)
            _add_at(of_key, product.keys, torch.bmm(of_scores.mT, q))
            first, end = product.queries
            of_query[0, :, first:end] = torch.bmm(of_scores, k).view(-1, end - first, query.shape[-1])
        return of_query, of_key, of_value, None, None, None


def _grouped(t: torch.Tensor, place: Segment, groups: int) -> torch.Tensor:
    """Put the heads that share a key head one after the other: (groups, heads / groups * tokens, width)."""
    return t[0, :, place[0] : place[1]].reshape(groups, -1, t.shape[-1])


def _gathered(t: torch.Tensor, places: Sequence[Segment]) -> torch.Tensor:
    parts = [t[0, :, first:end] for first, end in places]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _add_at(t: torch.Tensor, places: Sequence[Segment], gradient: torch.Tensor) -> None:
    start = 0
    for first, end in places:
        t[0, :, first:end] += gradient[:, start : start + end - first]
        start += end - first
