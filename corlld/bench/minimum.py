"""The fewest floating-point operations that a CoRLL step of a trained user can take, by hand.

A multiplication with a weight of shape (in, out) is 2 in out operations for each token. For a pair of a prompt and two
tails, n tokens together, from N of which a tail's token is predicted (the prompt's last one predicts both first ones):

    reference    each linear layer once for each of the n tokens, attention, the vocabulary for N tokens
    forward      the same, and LoRA: 2 r (in + out) for each token and adapted layer
    backward     the gradient of each layer's input: as much as its forward pass, but for the layers that read what no
                 adapter has touched yet; attention twice; LoRA twice (its weights' gradients and its inputs'), but for
                 the inputs of those layers; the vocabulary once. The base model's weights get no gradient

Attention is 4 d operations for each head and each (token, token that it sees): scores, and their weighted sum. The
prompt is read once for both tails, and nothing is padded or masked away. Norms, activations, the softmax and AdamW are
left out: they are additions to memory traffic, not to matrix products.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from corlld.adapters.layout import AdapterLayout
from corlld.learning.model.pairs import PreferencePair

# The projections of a layer that read its input: those of the first layer read no adapter's output.
_FIRST = ("q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What decides the count.

    linear: (in, out) summed as products over all linear layers but the output head. linear_first: of those whose input
    no adapter has touched. lora: r (in + out) summed over the adapted layers; lora_first: r in of those that are first.
    head: hidden size times vocabulary. attention: heads times width of a head, for each layer's window in tokens (None:
    a full one).
    """

    linear: int
    linear_first: int
    lora: int
    lora_first: int
    head: int
    attention: tuple[tuple[int, int | None], ...]


@dataclass(frozen=True, slots=True)
class Operations:
    """Operations of one step, by what needs them."""

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
    """The shape of a transformers causal language model whose adapters have this layout."""
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
    """Of one step on each of the pairs, reference pass included; the guard's pass is not."""
    total = Operations(0, 0, 0, 0)
    for pair in pairs:
        total += step(shape, len(pair.prompt), (len(pair.chosen), len(pair.rejected)))
    return total


def forward_only(shape: ModelShape, pairs: Iterable[PreferencePair]) -> int:
    """Of one more forward pass with the adapters on, as the guard's is."""
    return sum(
        2 * (shape.linear + shape.lora) * pair.tokens
        + _attention(shape, len(pair.prompt), (len(pair.chosen), len(pair.rejected)))
        + 2 * shape.head * _predicting((len(pair.chosen), len(pair.rejected)))
        for pair in pairs
    )


def step(shape: ModelShape, prompt: int, tails: Sequence[int]) -> Operations:
    """Of one text with a shared prompt of so many tokens, and tails of so many."""
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
    """Pairs of a token and one that it sees: all up to itself in its own text, within the window."""

    def up_to(length: int) -> int:
        free = length if window is None else min(length, window)  # so many tokens see all that is before them
        return free * (free + 1) // 2 + (length - free) * (window or 0)

    return up_to(prompt) + sum(up_to(prompt + tail) - up_to(prompt) for tail in tails)
