"""Log-probabilities of packed rows under the resident model: masks in, token log-probabilities out."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from corlld.errors import ConfigurationError
from corlld.learning.collate import Row

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
    if logits.dtype != torch.float64:
        logits = logits.float()
    return -F.cross_entropy(logits, row.targets, reduction="none")
