"""Tiny random models of many families, built from transformers' own config classes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig

from tests.support.tiny_models import make_tokenizer, seeded, spread_weights

POSITIONS = 128  # fewer than the longest text of the sweep has tokens: it is cut

# Set wherever a family's default config has a field of the name.
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
    "max_seq_len": POSITIONS,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "n_shared_experts": 1,
    "max_window_layers": 1,
    "full_attention_interval": 2,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "sliding_window_pattern": 2,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "rotary_dim": 4,
    "sliding_window": 8,
    "attention_chunk_size": 8,
    "state_size": 4,
    "mamba_d_state": 4,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "index_n_heads": 16,  # with few heads many scores are 0, and a tie is broken by the length of the row
    "index_head_dim": 16,
    "index_topk": 16,
    "mamba_chunk_size": 16,
    "chunk_size": 16,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "image_size": 16,
    "patch_size": 8,
}


@dataclass(frozen=True)
class Family:
    """A family of models, and what is special about its tiny member.

    model_type: transformers' name. fields: of the config, in place of `SMALL` and the defaults; None leaves a field of
    `SMALL` at its default. served: the class that is saved and served; "": the class that transformers loads for causal
    language models.
    """

    model_type: str
    fields: dict[str, Any] = field(default_factory=dict)
    served: str = ""

    def config(self, vocabulary: int) -> PreTrainedConfig:
        kind = CONFIG_MAPPING[self.model_type]
        fields = small_fields(kind(), vocabulary)
        for name, value in self.fields.items():
            inside = isinstance(value, dict) and name in fields
            fields[name] = fields[name] | value if inside else value
        return kind(**{name: value for name, value in fields.items() if value is not None})

    def save(self, folder: Path, seed: int = 0) -> Path:
        """Save the model, float32, with a byte-level tokenizer, into `folder`. Return the folder."""
        tokenizer = make_tokenizer()
        config = self.config(len(tokenizer))
        for part in (config, config.get_text_config()):
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                setattr(part, name, getattr(tokenizer, name))
        with seeded(seed):
            if self.served:
                model = getattr(transformers, self.served)(config).float()
            else:
                model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            spread_weights(model)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder


def small_fields(default: PreTrainedConfig, vocabulary: int) -> dict[str, Any]:
    """Return the fields that make this config tiny, and the same for the configs inside it."""
    fields = {name: value for name, value in SMALL.items() if _has(default, name)}
    if _has(default, "kv_lora_rank"):  # every head has its own keys there
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    kinds = list(dict.fromkeys(vars(default).get("layer_types") or ()))
    if len(kinds) > 1:
        fields |= {"layer_types": kinds, "num_hidden_layers": len(kinds)}
    for name, value in vars(default).items():
        if isinstance(value, float) and ("dropout" in name or "pdrop" in name):
            fields[name] = 0.0
        if isinstance(value, PreTrainedConfig):
            fields[name] = small_fields(value, vocabulary)
    if _has(default, "vocab_size"):
        fields["vocab_size"] = vocabulary
    return fields


def _has(config: PreTrainedConfig, name: str) -> bool:
    try:
        return getattr(config, name, None) is not None
    except RuntimeError:  # gemma4: each layer has its own
        return False
