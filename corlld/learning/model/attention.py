"""Attention inside each segment of a packed row: what lies end to end in one row must not see each other.

Registered with transformers' `AttentionInterface`; the model hands over queries, keys and values of the whole row.
Nothing is quadratic in the row: each branch attends to its own path alone.
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

from corlld.learning.model.short_attention import Path, Range, Stretch, short_attention

# The longest stretch that is computed with plain products on a CPU. At 512 tokens they are still ahead of torch's fused
# kernel (by a sixth in float32, twice as fast in bfloat16), but what they keep grows quadratically.
LONGEST_SHORT = 512

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Branch:
    """A path from the start of a text to its end, by the numbers of its pieces.

    pieces: in the order of the text. own: how many of the last ones are asked for; the others are shared with a branch
    before this one.
    """

    pieces: tuple[int, ...]
    own: int


@dataclass(frozen=True, eq=False)
class Segments:
    """How a row of T tokens falls into pieces, and what sees what.

    lengths: tokens of each piece, end to end. branches: their own pieces, one after the other, are the whole row.
    """

    lengths: tuple[int, ...]
    branches: tuple[Branch, ...]
    _masks: dict[tuple[object, ...], torch.Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def stretches(self) -> tuple[Stretch, ...]:
        """The branches by places in the row. Those with a common beginning are one stretch, unless that is too long:
        the products of tails that don't see each other cost less than more calls would.
        """
        found = []
        for family in self._families():
            paths = [self._path(branch) for branch in family]
            whole = (paths[0].ranges[0][0], paths[-1].ranges[-1][1])
            if len(paths) > 1 and whole[1] - whole[0] <= LONGEST_SHORT:
                found.append(Stretch(whole, (whole,), tuple(paths)))
            else:
                found += [Stretch((p.ranges[-1][1] - p.asked, p.ranges[-1][1]), p.ranges, (p,)) for p in paths]
        return tuple(found)

    def _families(self) -> list[list[Branch]]:
        """Branches that have a beginning in common: they follow each other, and the first one asks for it."""
        families: list[list[Branch]] = []
        for branch in self.branches:
            if branch.own == len(branch.pieces):
                families.append([])
            families[-1].append(branch)
        return families

    def _path(self, branch: Branch) -> Path:
        bounds = self._bounds
        ranges: list[Range] = []
        for piece in branch.pieces:
            start = ranges.pop()[0] if ranges and ranges[-1][1] == bounds[piece] else bounds[piece]
            ranges.append((start, bounds[piece + 1]))
        return Path(tuple(ranges), bounds[branch.pieces[-1] + 1] - bounds[branch.pieces[-branch.own]])

    @cached_property
    def _bounds(self) -> list[int]:
        return list(accumulate(self.lengths, initial=0))

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest branch."""
        return max(sum(self.lengths[piece] for piece in branch.pieces) for branch in self.branches)

    def mask(self, queries: int, keys: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """The additive mask of `queries` tokens at the end of `keys`: made once for all layers."""
        place = (queries, keys, window)
        if place not in self._masks:
            self._masks[place] = causal_mask(queries, keys, window, like)
        return self._masks[place]

    def stretch_mask(self, stretch: Stretch, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
        """The additive mask of a stretch, (queries, keys); None where all is seen."""
        if len(stretch.paths) == 1:
            queries, keys = stretch.paths[0].asked, sum(end - first for first, end in stretch.keys)
            seen = queries == 1 and (window is None or keys <= window)
            return None if seen else self.mask(queries, keys, window, like)
        place = (stretch, window)
        if place not in self._masks:
            self._masks[place] = _tree_mask(stretch, window, like)
        return self._masks[place]


def causal_mask(queries: int, keys: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """Shape (queries, keys), in the dtype and on the device of `like`: 0 where a query sees a key, else -inf.

    The queries are the last of the keys' tokens. window: tokens that a query sees, its own included.
    """
    distance = torch.arange(keys - queries, keys, device=like.device)[:, None] - torch.arange(keys, device=like.device)
    hidden = distance < 0
    if window is not None:
        hidden |= distance >= window
    return torch.zeros(queries, keys, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))


def _tree_mask(stretch: Stretch, window: int | None, like: torch.Tensor) -> torch.Tensor:
    first, end = stretch.queries
    mask = torch.full((end - first, end - first), float("-inf"), dtype=like.dtype, device=like.device)
    for path in stretch.paths:
        places = torch.cat([torch.arange(a - first, b - first, device=like.device) for a, b in path.ranges])
        mask[places[-path.asked :, None], places] = causal_mask(path.asked, len(places), window, like)
    return mask


class SegmentAttention:
    """The attention function of one resident model. `bind` says how the rows of the next passes are made up.

    With nothing bound each row of a batch is one text (padding may follow, but not precede it).
    """

    def __init__(self) -> None:
        self.name = f"corlld_segments_{next(_numbers)}"
        self._bound: Segments | None = None
        AttentionInterface.register(self.name, self)

    @contextlib.contextmanager
    def bind(self, segments: Segments | None) -> Iterator[None]:
        """For the passes inside, backward ones included (layers may be computed again there)."""
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
        **others: Any,
    ) -> tuple[torch.Tensor, None]:
        """Query (B, heads, T, head), key (B, fewer, T, head), value (B, fewer, T, width) -> (B, T, heads, width).

        Raises:
            ValueError: a mask, or a kind of attention that is not computed here.
        """
        unknown = [name for name in ("s_aux", "position_bias", "head_mask") if others.get(name) is not None]
        if attention_mask is not None or others.get("dropout") or unknown:
            raise ValueError(f"attention with a mask, dropout or {unknown} is not computed by segments")
        segments = self._bound or Segments((query.shape[2],), (Branch((0,), 1),))
        short = query.shape[0] == 1 and segments.longest <= LONGEST_SHORT and query.device.type != "cuda"
        if short and softcap is None:
            mask = partial(segments.stretch_mask, window=sliding_window, like=query)
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            return short_attention(query, key, value, segments.stretches, mask, scale), None
        pieces = [torch.split(t, list(segments.lengths), dim=2) for t in (query, key, value)]
        outputs = []
        for branch in segments.branches:
            q = _joined(pieces[0], branch.pieces[-branch.own :])
            k, v = (_joined(part, branch.pieces) for part in pieces[1:])
            outputs.append(_attend(segments, q, k, v, scaling, sliding_window, softcap).transpose(1, 2))
        return torch.cat(outputs, dim=1), None


def _joined(pieces: tuple[torch.Tensor, ...], numbers: tuple[int, ...]) -> torch.Tensor:
    chosen = [pieces[number] for number in numbers]
    return chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=2)


def _attend(
    segments: Segments,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    queries, keys = query.shape[2], key.shape[2]
    if window is not None and keys <= window:
        window = None
    if softcap is not None:
        return _soft_capped(query, key, value, scaling, softcap, segments.mask(queries, keys, window, query))
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


def _soft_capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    softcap: float,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Scores s become c tanh(s / c), as Gemma 2 has it; no fused kernel of torch knows that."""
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap + mask
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype) @ value
