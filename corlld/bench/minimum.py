"""The fewest floating-point operations that a CoRLL step of a trained user can take, derived by hand.

A multiplication with a weight of shape (in, out) is 2 in out operations per token. A pair has a prompt and two tails, n
tokens together. N of these predict a token of a tail (the last token of the prompt predicts the first of both tails):

    reference    each linear layer once for each of the n tokens, attention, the vocabulary for N tokens
    forward      as in the reference, and LoRA: 2 r (in + out) per token and adapted layer
    backward     the gradient of each layer's input: as much as its forward pass, except for layers whose input no
                 adapter has touched yet; attention twice; LoRA twice (gradients of its weights and of its inputs),
                 except for the inputs of those layers; the vocabulary once. The base model's weights get no gradient

Attention is 4 d operations per head and pair of a token and a token that it sees: scores, and their weighted sum. The
prompt is read once for both tails, and nothing is padded or masked away. Norms, activations, the softmax and AdamW are
left out: they add memory traffic, not matrix products.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from corlld.adapters.layout import AdapterLayout
from corlld.learning.model.pairs import PreferencePair

# The projections that read the input of a layer. In the first layer that input is no adapter's output.
_FIRST = ("q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a model that decide the count.

    linear: sum of in x out over all linear layers but the output head. linear_first: the same sum over the layers whose
    input no adapter has touched. lora: sum of r (in + out) over the adapted layers. lora_first: sum of r in over the
    adapted layers whose input no adapter has touched. head: hidden size x vocabulary. attention: per layer, heads x
    width of a head, and the window in tokens (None: no window).
    """

    linear: int
    linear_first: int
    lora: int
    lora_first: int
    head: int
    attention: tuple[tuple[int, int | None], ...]


@dataclass(frozen=True, slots=True)
class Operations:
    """Operations of a step, by the part that needs them."""

    linear: int
    lora: int
    attention: int
    head: int

    @property
    def total(self) -> int:
        return self.linear + self.lora + self.attention + self.head

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(
            self.linear + other.linear,
            self.lora + other.lora,
            self.attention + other.attention,
            self.head + other.head,
        )


def shape_of(model: Any, layout: AdapterLayout) -> ModelShape:
    """Return the shape of a transformers causal language model whose adapters have this layout."""
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    linear = {
        name: module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
    first_layer = layout.modules[0].name.rpartition(".")[0]
    first = {f"{first_layer}.{name}" for name in _FIRST}
    layers = config.num_hidden_layers
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * layers  # without types, one window for all
    return ModelShape(
        linear=sum(linear.values()),
        linear_first=sum(size for name, size in linear.items() if name in first),
        lora=sum(layout.r * (m.in_features + m.out_features) for m in layout.modules),
        lora_first=sum(layout.r * m.in_features for m in layout.modules if m.name in first),
        head=config.hidden_size * model.get_input_embeddings().weight.shape[0],
        attention=tuple((width, window if kind == "sliding_attention" else None) for kind in kinds),
    )


def minimum(shape: ModelShape, pairs: Iterable[PreferencePair]) -> Operations:
    """Return the operations of a step on the pairs, with the reference pass and without the guard's pass."""
    total = Operations(0, 0, 0, 0)
    for pair in pairs:
        total += step(shape, len(pair.prompt), (len(pair.chosen), len(pair.rejected)))
    return total


def forward_only(shape: ModelShape, pairs: Iterable[PreferencePair]) -> int:
    """Return the operations of one more forward pass with the adapters on, such as the guard's."""
    return sum(
        2 * (shape.linear + shape.lora) * pair.tokens
        + _attention(shape, len(pair.prompt), (len(pair.chosen), len(pair.rejected)))
        + 2 * shape.head * _predicting((len(pair.chosen), len(pair.rejected)))
        for pair in pairs
    )


def step(shape: ModelShape, prompt: int, tails: Sequence[int]) -> Operations:
    """Return the operations for one prompt and the tails after it. prompt, tails: their lengths in tokens."""
    tokens = prompt + sum(tails)
    return Operations(
        linear=2 * tokens * (3 * shape.linear - shape.linear_first),
        lora=2 * tokens * (3 * shape.lora - shape.lora_first),
        attention=4 * _attention(shape, prompt, tails),
        head=3 * 2 * _predicting(tails) * shape.head,
    )


def _predicting(tails: Sequence[int]) -> int:
    return 1 + sum(tail - 1 for tail in tails)


def _attention(shape: ModelShape, prompt: int, tails: Sequence[int]) -> int:
    return sum(4 * width * _seen(prompt, tails, window) for width, window in shape.attention)


def _seen(prompt: int, tails: Sequence[int], window: int | None) -> int:
    """Return the number of pairs of a token and a token that it sees: up to itself, in its text, within the window."""

    def up_to(length: int) -> int:
        free = length if window is None else min(length, window)  # so many tokens see all tokens before them
        return free * (free + 1) // 2 + (length - free) * (window or 0)

    return up_to(prompt) + sum(up_to(prompt + tail) - up_to(prompt) for tail in tails)
