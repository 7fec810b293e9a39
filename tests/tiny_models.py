"""Tiny random language models of real families, made in code, loadable offline by transformers' Auto classes."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3", "gpt2")
SLIDING_WINDOW = 8  # tokens; far shorter than the rows of the tests

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
TURN_START, TURN_END = "<|turn>", "<turn|>"
MERGES = (("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("in", "g"), ("e", "r"))

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('unknown role') }}{% endif %}"
    "<|turn>{{ message.role }}\n{{ message.content }}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>assistant\n{% endif %}"
)


def make_tiny_model(folder: Path, family: str = "llama", *, chat_template: bool = False, seed: int = 0) -> Path:
    """Save a random model with a byte-level tokenizer (NFC, a few merges, bos before prompts) into `folder`.

    Args:
        folder: made where it is missing.
        family: one of `FAMILIES`, or "mistral" (every layer slides). Windows are `SLIDING_WINDOW` tokens.
        chat_template: give the tokenizer one, whose assistant messages end with `TURN_END` and a newline.
        seed: of the weights.

    Returns:
        The folder.
    """
    tokenizer = _tokenizer(chat_template)
    config = _config(family, tokenizer)
    with _seeded(seed):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1:
                    # Wider than any family's own start: attention and output are then far from uniform.
                    parameter.normal_(std=0.25)
                elif not name.endswith("bias"):
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == len(tokenizer)
    return folder


def _tokenizer(chat_template: bool) -> PreTrainedTokenizerFast:
    specials = [PAD, BOS, EOS, TURN_START, TURN_END]
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
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator, and give it back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
