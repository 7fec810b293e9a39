"""Tiny random multimodal checkpoints, whose language model transformers loads as a class of its own."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Llama4Config,
    Llama4ForConditionalGeneration,
    PreTrainedModel,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
)

from tests.support.tiny_models import make_tokenizer

_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
}
_LLAMA4 = {
    "intermediate_size_mlp": 64,
    "num_local_experts": 2,
    "interleave_moe_layer_step": 2,
    "attention_chunk_size": 512,
    "layer_types": ["full_attention"] * 2,
}
_LLAMA4_VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vision_output_dim": 16,
    "image_size": 28,
    "patch_size": 14,
    "projector_input_dim": 16,
    "projector_output_dim": 16,
}
_QWEN3_5 = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_QWEN3_5_VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
}


def make_tiny_wrapper(folder: Path, family: str) -> tuple[Path, type[PreTrainedModel]]:
    """Save a random multimodal model with a tokenizer into `folder`. Return the folder and the model's class.

    family: "llama4", or "qwen3_5" (one recurrent layer, one of attention).
    """
    tokenizer = make_tokenizer()
    text: dict[str, Any] = _TEXT | {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel
        if family == "llama4":
            model = Llama4ForConditionalGeneration(
                Llama4Config(text_config=text | _LLAMA4, vision_config=_LLAMA4_VISION)
            )
        else:
            model = Qwen3_5ForConditionalGeneration(
                Qwen3_5Config(text_config=text | _QWEN3_5, vision_config=_QWEN3_5_VISION)
            )
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.25)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, type(model)
