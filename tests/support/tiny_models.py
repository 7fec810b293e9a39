"""Tiny random language models of real families, made in code, loadable offline by transformers' Auto classes."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from corlld.learning.model.resident import ResidentModel, make_resident
from corlld.settings.sections import AdapterSettings

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3", "gpt2")
SLIDING_WINDOW = 8  # tokens; far shorter than the rows of the tests

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
UNKNOWN = "<|endoftext|>"  # transformers adds it to a Qwen2 tokenizer that has none
TURN_START, TURN_END = "<|turn>", "<turn|>"
MERGES = (("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("in", "g"), ("e", "r"))

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('unknown role') }}{% endif %}"
    "<|turn>{{ message.role }}\n{{ message.content }}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>assistant\n{% endif %}"
)


@torch.no_grad()
def spread_weights(model: nn.Module) -> None:
    """Draw weights wider than any family's own start: attention and output are then far from uniform."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.25)
        elif not name.endswith("bias"):
            parameter.add_(torch.randn_like(parameter) * 0.1)


def make_tiny_model(folder: Path, family: str = "llama", *, chat_template: bool = False, seed: int = 0) -> Path:
    """Save a random model with a byte-level tokenizer (NFC, a few merges, bos before prompts) into `folder`.

    Args:
        folder: made where it is missing.
        family: one of `FAMILIES`, or "mistral" (every layer slides), "gemma2" (soft caps), "cohere" (scaled logits),
            "mamba" (recurrent).
            Windows are `SLIDING_WINDOW` tokens.
        chat_template: give the tokenizer one, whose assistant messages end with `TURN_END` and a newline.
        seed: of the weights.

    Returns:
        The folder.
    """
    tokenizer = make_tokenizer(chat_template)
    config = _config(family, tokenizer)
    with seeded(seed):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        spread_weights(model)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == len(tokenizer)
    return folder


def make_tokenizer(chat_template: bool = False) -> PreTrainedTokenizerFast:
    specials = [PAD, BOS, EOS, UNKNOWN, TURN_START, TURN_END]
    pieces = specials + sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(merge) for merge in MERGES]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=list(MERGES)))
    raw.normalizer = normalizers.NFC()
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, vocab[BOS])])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=[TURN_START, TURN_END],
    )
    if chat_template:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _config(family: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    ids = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
    }
    match family:
        case "llama":
            return LlamaConfig(**ids, **sizes)
        case "mistral":
            return MistralConfig(**ids, **sizes, sliding_window=SLIDING_WINDOW)
        case "gemma2":
            types = ["sliding_attention", "full_attention"]
            sizes |= {"head_dim": 8, "query_pre_attn_scalar": 8}
            capped = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
            return Gemma2Config(**ids, **sizes, **capped, layer_types=types, sliding_window=SLIDING_WINDOW)
        case "cohere":
            return CohereConfig(**ids, **sizes, logit_scale=0.25)
        case "mamba":
            return MambaConfig(**ids, hidden_size=32, num_hidden_layers=2, state_size=4)
        case "qwen2":
            return Qwen2Config(**ids, **sizes)
        case "qwen3":
            return Qwen3Config(**ids, **sizes, head_dim=8)
        case "gemma3":
            types = ["sliding_attention", "full_attention", "sliding_attention"]
            sizes |= {"num_hidden_layers": len(types), "head_dim": 8, "query_pre_attn_scalar": 8}
            return Gemma3TextConfig(**ids, **sizes, layer_types=types, sliding_window=SLIDING_WINDOW)
        case "gpt2":
            no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
            return GPT2Config(**ids, n_embd=32, n_layer=2, n_head=4, n_positions=1024, **no_dropout)
    raise ValueError(f"no tiny model of the family {family!r}")


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator, and give it back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def tiny_resident(
    folder: Path, *, dtype: torch.dtype = torch.float32, exact_norms: bool = False, **adapter: Any
) -> ResidentModel:
    """The tiny model in `folder` as the learner's resident model, its adapters of the shape `adapter` (settings).

    exact_norms: see `with_exact_norms`.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    if exact_norms:
        with_exact_norms(model)
    shape = AdapterSettings(**{"r": 4, "lora_alpha": 8} | adapter)
    return make_resident(model, AutoTokenizer.from_pretrained(folder), shape, name=str(folder), revision="1")


def with_exact_norms(model: nn.Module) -> nn.Module:
    """Replace RMS norms, which transformers computes in float32 whatever the model's dtype, by ones in its dtype."""
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _ExactNorm(module))
    return model


class _ExactNorm(nn.Module):
    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = norm.weight
        self.offset = 1.0 if type(norm).__name__.startswith("Gemma") else 0.0
        self.eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = (self.offset + self.weight) * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return scaled
