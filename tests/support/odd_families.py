"""Tiny random models whose modules can't all be adapted: experts, states, towers, linear classes of their own."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig

Config = Callable[[], PreTrainedConfig]

VOCABULARY = 300  # more than `make_tokenizer` has
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}
DENSE_FIRST = SIZES | {"moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2}
DENSE_FIRST |= {"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
QWEN_MOE = SIZES | {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
MAMBA_PART = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 28, "patch_size": 14}


def llama() -> PreTrainedConfig:
    return transformers.LlamaConfig(**SIZES)


def glm4_moe() -> PreTrainedConfig:
    return transformers.Glm4MoeConfig(**DENSE_FIRST)


def deepseek_v3() -> PreTrainedConfig:
    return transformers.DeepseekV3Config(**(DENSE_FIRST | LATENT | {"num_key_value_heads": 4}))


def qwen3_moe(**fields: Any) -> PreTrainedConfig:
    return transformers.Qwen3MoeConfig(**(QWEN_MOE | (fields or {"mlp_only_layers": [0]})))


def qwen3_moe_sparse_steps() -> PreTrainedConfig:
    return qwen3_moe(decoder_sparse_step=2)


def mixtral() -> PreTrainedConfig:
    return transformers.MixtralConfig(**SIZES, **EXPERTS)


def jetmoe() -> PreTrainedConfig:
    sizes = {name: size for name, size in SIZES.items() if name not in ("head_dim", "num_attention_heads")}
    return transformers.JetMoeConfig(**sizes, **EXPERTS, kv_channels=8)


def mamba() -> PreTrainedConfig:
    return transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4)


def falcon_h1() -> PreTrainedConfig:
    return transformers.FalconH1Config(**SIZES, **MAMBA_PART, mamba_chunk_size=16)


def gemma3() -> PreTrainedConfig:
    text = SIZES | {"sliding_window": 8}
    return transformers.Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=1)


def phimoe() -> PreTrainedConfig:
    return transformers.PhimoeConfig(**SIZES, **EXPERTS)


def llama4_text() -> PreTrainedConfig:
    experts = {"num_experts_per_tok": 1, "num_local_experts": 4}
    return transformers.Llama4TextConfig(**SIZES, **experts, intermediate_size_mlp=64)


def falcon() -> PreTrainedConfig:
    return transformers.FalconConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)


def gpt2() -> PreTrainedConfig:
    return transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=1
    )


def build(family: Config) -> Any:
    """Make a random model, frozen, in eval mode: the same one each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(family(), dtype=torch.float32).eval().requires_grad_(False)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.25)
    return model
