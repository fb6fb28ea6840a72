"""The families that can be read from GGUF, by the names that llama.cpp gives their architectures.

Sources: the tensor names and keys of gguf-py (constants.py), and what llama.cpp's conversion does to each family's weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .family import Family
from .metadata import Facts
from .names import BERT, FUSED_MLP, GEMMA2, GPT2, LAYER, LLAMA, MODERN_BERT, NEOX, POST_NORMS, QK_NORMS, SPLIT_QKV

_LAYER_EPS = "attention.layer_norm_epsilon"


def _biases(facts: Facts, raw: dict[str, Any]) -> dict[str, Any]:
    """Llama's biases, which metadata does not mention."""
    return {"attention_bias": facts.has("blk.{i}.attn_q.bias"), "mlp_bias": facts.has("blk.{i}.ffn_up.bias")}


def _attention_bias(facts: Facts, raw: dict[str, Any]) -> dict[str, Any]:
    return {"attention_bias": facts.has("blk.{i}.attn_q.bias", "blk.{i}.attn_qkv.bias")}


def _layer_types(facts: Facts, layers: int, pattern: int) -> dict[str, Any]:
    """The window, and which layers have it: those that a list names, or all but every `pattern`-th."""
    window = facts.integer("attention.sliding_window", 0, minimum=0)
    given = facts.raw("attention.sliding_window_pattern")
    if isinstance(given, np.ndarray) and len(given) == layers:
        sliding = [bool(x) for x in given]
    else:
        every = given if type(given) is int and given > 0 else pattern
        sliding = [window > 0 and (i + 1) % every > 0 for i in range(layers)]
    kinds = ["sliding_attention" if x else "full_attention" for x in sliding]
    return {"sliding_window": window or None, "layer_types": kinds}


def _gemma_scale(facts: Facts, raw: dict[str, Any], largest: int) -> int:
    """query_pre_attn_scalar, which only the 27B models, known by their number of layers, have of another value."""
    if raw["num_hidden_layers"] == largest:
        return int(raw["hidden_size"] // raw["num_attention_heads"])
    return facts.integer("attention.key_length", 256)


def _gemma2(facts: Facts, raw: dict[str, Any]) -> dict[str, Any]:
    found = {"query_pre_attn_scalar": _gemma_scale(facts, raw, 46)}
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        found[key] = facts.number(key, 0.0) or None  # type: ignore[assignment]
    return found | _layer_types(facts, raw["num_hidden_layers"], 2)


def _gemma3(facts: Facts, raw: dict[str, Any]) -> dict[str, Any]:
    """Layers with a window have a rotary embedding of their own, without scaling."""
    local = {"rope_type": "default", "rope_theta": facts.number("rope.freq_base_swa", 10000.0)}
    return {
        "query_pre_attn_scalar": _gemma_scale(facts, raw, 62),
        "final_logit_softcapping": facts.number("final_logit_softcapping", 0.0) or None,
        **_layer_types(facts, raw["num_hidden_layers"], 6),
        "rope_parameters": {"full_attention": raw["rope_parameters"], "sliding_attention": local},
    }


def _phi3(facts: Facts, raw: dict[str, Any]) -> dict[str, Any]:
    original = facts.integer("rope.scaling.original_context_length", raw["max_position_embeddings"])
    window = facts.integer("attention.sliding_window", 0, minimum=0)
    return {"original_max_position_embeddings": original, "sliding_window": window or None}


def _olmo2(facts: Facts, raw: dict[str, Any]) -> dict[str, Any]:
    """A window makes it OLMo 3, which llama.cpp calls by the same name."""
    windows = _layer_types(facts, raw["num_hidden_layers"], 4)
    if windows["sliding_window"] is None:
        return {}
    return {"architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3", **windows}


def _granite(facts: Facts, raw: dict[str, Any]) -> dict[str, Any]:
    usual = (raw.get("head_dim") or raw["hidden_size"] / raw["num_attention_heads"]) ** -0.5
    return _biases(facts, raw) | {
        "attention_multiplier": facts.number("attention.scale", 0.0) or usual,
        "embedding_multiplier": facts.number("embedding_scale", 0.0) or 1.0,
        "residual_multiplier": facts.number("residual_scale", 0.0) or 1.0,
        "logits_scaling": facts.number("logit_scale", 0.0) or 1.0,
    }


def _minicpm(facts: Facts, raw: dict[str, Any]) -> dict[str, Any]:
    """Without the keys, as in files from before 2025, the values of the first MiniCPM."""
    layers, hidden = raw["num_hidden_layers"], raw["hidden_size"]
    return {
        "scale_emb": facts.number("embedding_scale", 12.0),
        "scale_depth": round(facts.number("residual_scale", 1.4 / layers**0.5) * layers**0.5, 6),
        "dim_model_base": round(hidden / facts.number("logit_scale", hidden / 256), 6),
    }


def _stablelm(facts: Facts, raw: dict[str, Any]) -> dict[str, Any]:
    return {
        "use_parallel_residual": facts.boolean("use_parallel_residual", True),
        "use_qkv_bias": facts.has("blk.{i}.attn_q.bias"),
        "qk_layernorm": facts.has("blk.{i}.attn_q_norm.weight"),
    }


def _cohere(facts: Facts, raw: dict[str, Any]) -> dict[str, Any]:
    return _attention_bias(facts, raw) | {"use_qk_norm": facts.has("blk.{i}.attn_q_norm.weight")}


def _cohere2(facts: Facts, raw: dict[str, Any]) -> dict[str, Any]:
    return _attention_bias(facts, raw) | _layer_types(facts, raw["num_hidden_layers"], 4)


def _starcoder2(facts: Facts, raw: dict[str, Any]) -> dict[str, Any]:
    return {"use_bias": facts.has("blk.{i}.attn_q.bias")}


def _neox(facts: Facts, raw: dict[str, Any]) -> dict[str, Any]:
    bias = facts.has("blk.{i}.attn_qkv.bias")
    return {"use_parallel_residual": facts.boolean("use_parallel_residual", True), "attention_bias": bias}


def _bert(facts: Facts, raw: dict[str, Any]) -> dict[str, Any]:
    types = facts.shapes.get("token_types.weight", (1, 0))[0]
    rows = facts.shapes.get("position_embd.weight", (raw["max_position_embeddings"], 0))[0]
    return {"type_vocab_size": types, "max_position_embeddings": rows}


def _modern_bert(facts: Facts, raw: dict[str, Any]) -> dict[str, Any]:
    """Every third layer, from the first on, sees all; the others have a window and a rotary embedding of their own."""
    every = facts.integer("attention.sliding_window_pattern", 3)
    local = {"rope_type": "default", "rope_theta": facts.number("rope.freq_base_swa", 10000.0)}
    layers = range(raw["num_hidden_layers"])
    return {
        "local_attention": facts.integer("attention.sliding_window", 128),
        "layer_types": ["sliding_attention" if i % every else "full_attention" for i in layers],
        "rope_parameters": {"full_attention": raw["rope_parameters"], "sliding_attention": local},
        "attention_bias": facts.has("blk.{i}.attn_qkv.bias"),
        "mlp_bias": facts.has("blk.{i}.ffn_up.bias"),
        "norm_bias": facts.has("output_norm.bias"),
    }


def _llama(facts: Facts, raw: dict[str, Any]) -> dict[str, Any]:
    """A window makes it Mistral, which llama.cpp calls by the same name."""
    window = facts.integer("attention.sliding_window", 0, minimum=0)
    if not window:
        return _biases(facts, raw)
    return {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": window}


_LLAMA = Family(
    architecture="LlamaForCausalLM",
    model_type="llama",
    names=LLAMA,
    constants={"hidden_act": "silu"},
    more=_llama,
    rotary_rows=True,
)
_COHERE_EPS = {"layer_norm_eps": _LAYER_EPS, "logit_scale": "logit_scale"}
_GELU = {"hidden_activation": "gelu_pytorch_tanh"}

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,  # Llama, Mistral, SmolLM, Falcon 3
    "internlm2": _LLAMA,  # its fused projection is taken apart in GGUF, which makes it a Llama
    "qwen2": Family(architecture="Qwen2ForCausalLM", model_type="qwen2", names=LLAMA),
    "qwen3": Family(
        architecture="Qwen3ForCausalLM", model_type="qwen3", names=LLAMA | QK_NORMS, more=_attention_bias, head_dim=True
    ),
    "gemma": Family(
        architecture="GemmaForCausalLM",
        model_type="gemma",
        names=LLAMA,
        constants={"hidden_act": "gelu_pytorch_tanh"},
        head_dim=True,
        norm_offset=-1.0,
    ),
    "gemma2": Family(
        architecture="Gemma2ForCausalLM",
        model_type="gemma2",
        names=GEMMA2,
        constants=_GELU,
        more=_gemma2,
        head_dim=True,
        norm_offset=-1.0,
    ),
    "gemma3": Family(
        architecture="Gemma3ForCausalLM",
        model_type="gemma3_text",
        names=GEMMA2 | QK_NORMS,
        constants=_GELU,
        more=_gemma3,
        head_dim=True,
        norm_offset=-1.0,
    ),
    "phi3": Family(
        architecture="Phi3ForCausalLM",
        model_type="phi3",
        names=LLAMA | FUSED_MLP | {"blk.{i}.attn_qkv": LAYER + "self_attn.qkv_proj"},
        more=_phi3,
    ),
    "olmo2": Family(
        architecture="Olmo2ForCausalLM", model_type="olmo2", names=LLAMA | POST_NORMS | QK_NORMS, more=_olmo2
    ),
    "granite": Family(
        architecture="GraniteForCausalLM", model_type="granite", names=LLAMA, more=_granite, rotary_rows=True
    ),
    "minicpm": Family(
        architecture="MiniCPMForCausalLM", model_type="minicpm", names=LLAMA, more=_minicpm, rotary_rows=True
    ),
    "stablelm": Family(
        architecture="StableLmForCausalLM",
        model_type="stablelm",
        names=LLAMA | {f"blk.{{i}}.attn_{x}_norm": LAYER + f"self_attn.{x}_layernorm.norms.{{j}}" for x in "qk"},
        numbers={"layer_norm_eps": _LAYER_EPS},
        more=_stablelm,
        partial=True,
    ),
    "gpt2": Family(
        architecture="GPT2LMHeadModel",
        model_type="gpt2",
        names=GPT2,
        integers={
            "n_embd": "embedding_length",
            "n_layer": "block_count",
            "n_inner": "feed_forward_length",
            "n_head": "attention.head_count",
            "n_positions": "context_length",
        },
        numbers={"layer_norm_epsilon": _LAYER_EPS},
        constants={"activation_function": "gelu_new"},
        kv_heads=False,
        rope=False,
        transposed=True,
    ),
    "gptneox": Family(
        architecture="GPTNeoXForCausalLM",
        model_type="gpt_neox",
        names=NEOX,
        numbers={"layer_norm_eps": _LAYER_EPS},
        more=_neox,
        kv_heads=False,
        partial=True,
        fused_rows=True,
    ),
    "starcoder2": Family(
        architecture="Starcoder2ForCausalLM",
        model_type="starcoder2",
        names=LLAMA | {"blk.{i}.ffn_up": LAYER + "mlp.c_fc", "blk.{i}.ffn_down": LAYER + "mlp.c_proj"},
        numbers={"norm_epsilon": _LAYER_EPS},
        constants={"hidden_act": "gelu_pytorch_tanh", "sliding_window": None},
        more=_starcoder2,
    ),
    "command-r": Family(
        architecture="CohereForCausalLM",
        model_type="cohere",
        names=LLAMA | QK_NORMS,
        numbers=_COHERE_EPS,
        more=_cohere,
    ),
    "cohere2": Family(
        architecture="Cohere2ForCausalLM", model_type="cohere2", names=LLAMA, numbers=_COHERE_EPS, more=_cohere2
    ),
    "glm4": Family(
        architecture="Glm4ForCausalLM",
        model_type="glm4",
        names=LLAMA
        | FUSED_MLP
        | SPLIT_QKV
        | {
            "blk.{i}.post_attention_norm": LAYER + "post_self_attn_layernorm",
            "blk.{i}.post_ffw_norm": LAYER + "post_mlp_layernorm",
        },
        more=_attention_bias,
        head_dim=True,
        partial=True,
    ),
    "chatglm": Family(
        architecture="GlmForCausalLM",
        model_type="glm",
        names=LLAMA | FUSED_MLP | SPLIT_QKV,
        more=_attention_bias,
        head_dim=True,
        partial=True,
    ),
    "bert": Family(
        architecture="BertModel",
        model_type="bert",
        names=BERT,
        numbers={"layer_norm_eps": _LAYER_EPS},
        constants={"hidden_act": "gelu"},
        more=_bert,
        kv_heads=False,
        rope=False,
        tied=True,
    ),
    "modern-bert": Family(
        architecture="ModernBertModel",
        model_type="modernbert",
        names=MODERN_BERT,
        numbers={"norm_eps": _LAYER_EPS},
        constants={"hidden_activation": "gelu"},
        more=_modern_bert,
        kv_heads=False,
        tied=True,
    ),
}
