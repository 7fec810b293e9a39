"""Attention over the stretches of a packed row in plain matrix products: on a CPU, where texts are short, faster than a
fused kernel, most of all in bfloat16, and without a node of the graph for each stretch.

Quadratic in the longest stretch: the attention weights are kept for the backward pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Range = tuple[int, int]  # first and end, places in the row


@dataclass(frozen=True, slots=True)
class Path:
    """A text in the row: its tokens in order, and how many of the last ones are asked for."""

    ranges: tuple[Range, ...]
    asked: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is computed at once. queries, keys: whatever is asked for and is seen by `paths`.

    Of one path, the keys are its tokens in order. Several have a beginning in common, and queries and keys are all that
    they have: what is not seen from a path is masked.
    """

    queries: Range
    keys: tuple[Range, ...]
    paths: tuple[Path, ...]


Mask = Callable[[Stretch], torch.Tensor | None]


def short_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    stretches: Sequence[Stretch],
    mask: Mask,
    scaling: float,
) -> torch.Tensor:
    """Query (1, heads, T, head), key (1, fewer, T, head), value (1, fewer, T, width) -> (1, T, heads, width).

    mask: a stretch's additive mask, (queries, keys); None where all are seen.
    """
    y: torch.Tensor = _ShortAttention.apply(query, key, value, stretches, mask, scaling)
    return y


class _ShortAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        stretches: Sequence[Stretch],
        mask: Mask,
        scaling: float,
    ) -> torch.Tensor:
        _, heads, tokens, _ = query.shape
        groups, width = key.shape[1], value.shape[-1]
        out = query.new_empty(1, tokens, heads, width)
        weights = []
        for stretch in stretches:
            q = _grouped(query, stretch.queries, groups)
            k, v = (_gathered(t, stretch.keys) for t in (key, value))
            scores = torch.bmm(q, k.mT)
            shape = scores.shape
            scores = scores.view(heads, -1, shape[-1])
            hidden = mask(stretch)
            scores = scores.mul_(scaling) if hidden is None else torch.add(hidden, scores, alpha=scaling)
            p = scores.softmax(-1).view(shape)
            first, end = stretch.queries
            out[0, first:end] = torch.bmm(p, v).view(heads, end - first, width).transpose(0, 1)
            weights.append(p)
        ctx.save_for_backward(query, key, value, *weights)
        ctx.stretches, ctx.scaling = stretches, scaling
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *weights = ctx.saved_tensors
        groups = key.shape[1]
        of_query, of_key, of_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        upstream = gradient.transpose(1, 2)
        for stretch, p in zip(ctx.stretches, weights, strict=True):
            q, g = (_grouped(t, stretch.queries, groups) for t in (query, upstream))
            k, v = (_gathered(t, stretch.keys) for t in (key, value))
            _add_at(of_value, stretch.keys, torch.bmm(p.mT, g))
            of_weights = torch.bmm(g, v.mT)
            along = (of_weights * p).sum(-1, keepdim=True)
            of_scores = of_weights.sub_(along).mul_(p).mul_(ctx.scaling)
            _add_at(of_key, stretch.keys, torch.bmm(of_scores.mT, q))
            first, end = stretch.queries
            of_query[0, :, first:end] = torch.bmm(of_scores, k).view(-1, end - first, query.shape[-1])
        return of_query, of_key, of_value, None, None, None


def _grouped(t: torch.Tensor, place: tuple[int, int], groups: int) -> torch.Tensor:
    """The heads that share a key head, one after the other: (groups, heads / groups * tokens, width)."""
    return t[0, :, place[0] : place[1]].reshape(groups, -1, t.shape[-1])


def _gathered(t: torch.Tensor, places: Sequence[tuple[int, int]]) -> torch.Tensor:
    parts = [t[0, :, first:end] for first, end in places]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _add_at(t: torch.Tensor, places: Sequence[tuple[int, int]], gradient: torch.Tensor) -> None:
    start = 0
    for first, end in places:
        t[0, :, first:end] += gradient[:, start : start + end - first]
        start += end - first
