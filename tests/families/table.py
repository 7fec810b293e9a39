"""The families of the sweep: transformers' model type, what its tiny config needs beside `tiny.SMALL`, and its end."""

from typing import Any

from tests.families.tiny import Family

PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# The long text of the sweep is longer than the first, so that another user's short text could take the long factors.
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 96,
    "short_factor": [1.0] * 4,
    "long_factor": [8.0] * 4,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 48}
LLAMA3 = YARN | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
MIXED = ["linear_attention", "full_attention"]

# By name; a name is the model type, but for variants.
FAMILIES: dict[str, Family] = {}


def _add(model_type: str, variant: str = "", served: str = "", **fields: Any) -> None:
    FAMILIES[f"{model_type}-{variant}" if variant else model_type] = Family(model_type, fields, served)


def _add_plain(model_types: str) -> None:
    for model_type in model_types.split():
        _add(model_type)


# Dense
_add_plain(
    """
    apertus arcee bitnet cohere cohere2 cwm diffllama doge ernie4_5 exaone4 gemma gemma2 gemma3_text glm glm4
    gpt2 gpt_bigcode gpt_neox gpt_neox_japanese granite granite_swa helium hrm_text hyperclovax internlm3 jais2
    llama lfm3 mellum minicpm3 ministral3 mistral mpt nanochat olmo olmo2 olmo3 opt openai-gpt persimmon phi
    phi3 qwen2 qwen3 seed_oss smollm3 stablelm starcoder2 vaultgemma xglm youtu bloom biogpt codegen ctrl gptj
    modernbert-decoder rwkv
    """
)
_add("falcon", head_dim=None)
_add("falcon", "alibi", head_dim=None, alibi=True)
_add("falcon", "new", head_dim=None, new_decoder_architecture=True, num_kv_heads=2)
_add("gemma3n_text", num_kv_shared_layers=0, vocab_size_per_layer_input=268, hidden_size_per_layer_input=8)
GEMMA4 = {"head_dim": 8, "global_head_dim": 8, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 268}
_add("gemma4_text", **GEMMA4)
_add("gpt_neo", num_layers=2, attention_types=[[["global", "local"], 1]], window_size=8, num_hidden_layers=None)
_add("hunyuan_v1_dense", head_dim=8, rope_parameters=PLAIN_ROPE)
_add("hunyuan_v1_dense", "alpha", head_dim=8, rope_parameters=DYNAMIC | {"alpha": 1000.0, "factor": 1.0})
_add("ministral", head_dim=8, rope_parameters=PLAIN_ROPE)
_add("nemotron", head_dim=8, num_key_value_heads=2)

# Positions that depend on length
_add("phi3", "longrope", rope_parameters=LONGROPE, original_max_position_embeddings=96)
_add("phimoe", "longrope", rope_parameters=LONGROPE | {"short_mscale": 1.1, "long_mscale": 1.4})
_add("minicpm3", "longrope", rope_parameters=LONGROPE)
# Attention that is scaled by each token's own position
_add("ministral3", "scaled", rope_parameters=YARN | {"llama_4_scaling_beta": 0.1})
_add(
    "inkling_text",
    swa_num_attention_heads=4,
    swa_num_key_value_heads=2,
    swa_head_dim=8,
    d_rel=4,
    rel_extent=64,
    sliding_window_size=8,
    log_scaling_n_floor=16,
)
for _variant, _rope in (("dynamic", DYNAMIC), ("yarn", YARN), ("linear", LINEAR), ("llama3", LLAMA3)):
    _add("llama", _variant, rope_parameters=_rope)

# Mixtures of experts
_add_plain(
    """
    afmoe aria_text axk1 beam cohere2_moe deepseek_v3 deepseek_v32 ernie4_5_moe exaone_moe flex_olmo
    glm4_moe glm4_moe_lite glm_moe_dsa gpt_oss granitemoe granitemoe_swa granitemoeshared hy_v3 hy_v4 jetmoe
    laguna longcat_flash mimo_v2_flash minimax_m2 mixtral olmoe phimoe qwen2_moe qwen3_moe solar_open kolibri1
    """
)
_add("deepseek_v2", num_experts_per_tok=2)
_add("dots1", n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1)
_add("hunyuan_v1_moe", head_dim=8, rope_parameters=PLAIN_ROPE)
_add("llama4_text", intermediate_size_mlp=64, floor_scale=16)
_add("zaya", num_experts_per_tok=1, router_hidden_size=16)
_add("deepseek_v4")

# Hybrids, and models with a state
_add_plain(
    """
    bailing_hybrid bamba falcon_mamba granitemoehybrid jamba mamba minimax nemotron_h
    olmo_hybrid qwen3_5_text qwen3_5_moe_text qwen3_next flint
    """
)
_add("recurrent_gemma", block_types=["recurrent", "attention"])
_add("falcon_h1", mamba_d_ssm=64)
_add("nemotron_h", mamba_num_heads=4, mamba_head_dim=16, n_groups=1, ssm_state_size=4)
_add("kimi_linear")
_add("lfm2", layer_types=["conv", "full_attention"])
_add("lfm2_moe", layer_types=["conv", "full_attention"], num_dense_layers=1)
_add("mamba2", num_heads=8, head_dim=8)
_add("xlstm", v_head_dim=None, num_heads=4, num_blocks=2)
_add("zamba", layers_block_type=["linear_attention", "hybrid", "hybrid"], num_hidden_layers=3)
_add("zamba2", layers_block_type=["linear_attention", "hybrid"], num_key_value_heads=4, head_dim=None, n_mamba_heads=8)

# Wrappers: a language model beside towers for pictures or sound
_add_plain(
    """
    fuyu gemma3 git got_ocr2 llama4 mllama phi4_multimodal qwen3_5 qwen3_5_moe emu3
    """
)
_add(
    "gemma4",
    text_config=GEMMA4,
    vision_config={"position_embedding_size": 16, "head_dim": 8},
    audio_config=None,
)
# transformers loads these as their language model alone; engines serve the wrapper, whose modules have other names.
_add("qwen3_5", "wrapper", served="Qwen3_5ForConditionalGeneration")
_add("qwen3_5_moe", "wrapper", served="Qwen3_5MoeForConditionalGeneration")
_add("llama4", "wrapper", served="Llama4ForConditionalGeneration")
_add("mllama", "wrapper", served="MllamaForConditionalGeneration")
_add("idefics3", served="Idefics3ForConditionalGeneration")
_add("llava", served="LlavaForConditionalGeneration")
_add("mistral3", served="Mistral3ForConditionalGeneration")
_add("qwen3_vl", served="Qwen3VLForConditionalGeneration")

# Decoders of models that are not language models alone, and models that see what follows
_add_plain(
    """
    bart bert big_bird marian opt trocr roberta electra xlm cpmant
    """
)
_add("bert", "decoder", is_decoder=True)
_add("roberta", "decoder", is_decoder=True)
_add("reformer", is_decoder=True, attention_head_size=8, axial_pos_embds=False)

# Those of `make test`: Conv1D, fused projections, windows, sinks, experts, states, positions by length, a refusal.
_FEW = "gpt2 bloom falcon phi3 phi3-longrope gpt_neox gemma3_text gpt_oss mixtral glm4_moe mamba qwen3_5_text doge"
REPRESENTATIVE = frozenset(_FEW.split())

# What the start says of a family that can't be trained.
_OTHER = "this model can't be trained on packed rows: it scores them differently from plain texts"
_AHEAD = "this model looks ahead (an encoder?), and corlld trains decoders"
_NOT_CAUSAL = "which transformers can't load as a causal language model"
REFUSED = {
    "bert": _AHEAD,
    "big_bird": _AHEAD,
    "roberta": _AHEAD,
    "electra": _AHEAD,
    "xlm": _AHEAD,
    # A head of more layers than one
    "bert-decoder": _OTHER,
    "roberta-decoder": _OTHER,
    "modernbert-decoder": _OTHER,
    # Logits that are scaled in a way of their own
    "inkling_text": _OTHER,
    "doge": "attention with a mask",
    "cpmant": "none of its linear modules can be adapted: not called once with each token of a text",
    "emu3": _NOT_CAUSAL,
    "idefics3": _NOT_CAUSAL,
    "llava": _NOT_CAUSAL,
    "mistral3": _NOT_CAUSAL,
    "mllama": _NOT_CAUSAL,
    "qwen3_vl": _NOT_CAUSAL,
    "reformer": "can't be trained: RuntimeError: element 0 of tensors does not require grad",
    "xlstm": "an adapter of this model scores differently where PEFT loads it",
}
