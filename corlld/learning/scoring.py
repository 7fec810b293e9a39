"""Log-probabilities of packed rows under the resident model: masks in, token log-probabilities out."""

from collections.abc import Iterator
from typing import Any

import torch

from corlld.errors import ConfigurationError
from corlld.learning.collate import Row

# 16 MB in float32: small enough to stay in a cache, and to be given again by the allocator without page faults.
_LOGITS_AT_A_TIME = 2**22

# What a model wants as its mask: one tensor, under the key None, or one for each type of layer. The value is the
# sliding window in tokens, None where attention is full.
Windows = dict[str | None, int | None]


def mask_windows(config: Any) -> Windows:
    """The masks that a model of this transformers configuration takes.

    Raises:
        ConfigurationError: layers that carry a state from token to token, or chunks: two tails can't share a prefix.
    """
    config = config.get_text_config()
    window = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None)
    if layer_types is None:
        return {None: window}
    windows: Windows = {"full_attention": None, "sliding_attention": window}
    unknown = set(layer_types) - set(windows)
    if unknown or ("sliding_attention" in layer_types and window is None):
        found = ", ".join(sorted(unknown)) or "sliding_attention without a window"
        raise ConfigurationError(f"model.name: models with these layers can't be trained on shared prefixes: {found}")
    return {kind: windows[kind] for kind in sorted(set(layer_types))}


def attention_mask(row: Row, windows: Windows, dtype: torch.dtype) -> torch.Tensor | dict[str, torch.Tensor]:
    """The row's additive mask or masks, each (1, 1, T, T): 0 where a token sees another, else the dtype's lowest."""

    def additive(window: int | None) -> torch.Tensor:
        mask = torch.zeros(row.segment.numel(), row.segment.numel(), dtype=dtype, device=row.segment.device)
        return mask.masked_fill_(~row.allowed(window), torch.finfo(dtype).min)[None, None]

    if None in windows:
        return additive(windows[None])
    return {kind: additive(window) for kind, window in windows.items() if kind is not None}


def token_logps(model: Any, windows: Windows, row: Row) -> torch.Tensor:
    """The log pi of each tail token in nats, shape (N,), float32 (float64 for a float64 model).

    The vocabulary is only computed where a tail token is predicted.
    """
    logits = model(
        input_ids=row.input_ids,
        position_ids=row.position_ids,
        attention_mask=attention_mask(row, windows, model.dtype),
        logits_to_keep=row.predict,
        use_cache=False,
    ).logits[0]  # (N, vocabulary)
    logps: torch.Tensor = _TargetLogps.apply(logits, row.targets)
    return logps


class _TargetLogps(torch.autograd.Function):
    """logits[i, targets[i]] - logsumexp(logits[i]), a few tokens at a time.

    `cross_entropy` holds three arrays of (N, vocabulary) in float32 at once, most of a step's memory where a vocabulary
    has 262144 entries, and touching them took a quarter of its time on a CPU. This holds the logits and their gradient.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        parts = []
        normalisers = []
        for few, target in _slices(logits, targets):
            wide = _wide(few)
            normaliser = wide.logsumexp(-1)
            parts.append(wide.gather(1, target[:, None])[:, 0] - normaliser)
            normalisers.append(normaliser)
        ctx.save_for_backward(logits, targets, torch.cat(normalisers))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, targets, normalisers = ctx.saved_tensors
        result = torch.empty_like(logits)
        start = 0
        for few, target in _slices(logits, targets):
            here = slice(start, start + len(target))
            upstream = gradient[here, None]
            part = (_wide(few) - normalisers[here, None]).exp_().mul_(-upstream)
            result[here] = part.scatter_add_(1, target[:, None], upstream)
            start = here.stop
        return result, None


def _slices(logits: torch.Tensor, targets: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    tokens = max(1, _LOGITS_AT_A_TIME // logits.shape[-1])
    return zip(torch.split(logits, tokens), torch.split(targets, tokens), strict=True)


def _wide(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
