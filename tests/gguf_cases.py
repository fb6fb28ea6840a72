"""A model of transformers for each family of GGUF, and the file that llama.cpp's conversion makes of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from gguf import MODEL_ARCH

from tests.gguf_tools import by_projection, converted, llama_metadata, rotary_pairs, write_gguf

SMALL: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
RMS = {"attention.layer_norm_rms_epsilon": 1e-5}
LAYER = {"attention.layer_norm_epsilon": 1e-5}
LAYERS = 12  # at least as many as any case has
KV = {"attention.head_count_kv": 2}


def same(name: str, array: np.ndarray, config: Any) -> np.ndarray:
    return array


def permuted(name: str, array: np.ndarray, config: Any) -> np.ndarray:
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    found = [count for part, count in heads.items() if part in name]
    return rotary_pairs(array, found[0]) if found else array


def norms_plus_one(name: str, array: np.ndarray, config: Any) -> np.ndarray:
    return array + 1 if name.endswith("norm.weight") else array


def gpt2(name: str, array: np.ndarray, config: Any) -> np.ndarray:
    return array.T if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else array


def neox(name: str, array: np.ndarray, config: Any) -> np.ndarray:
    return by_projection(array, config.num_attention_heads) if "query_key_value" in name else array


@dataclasses.dataclass(frozen=True)
class Case:
    """A config of transformers, the metadata of it, and what the conversion does to its tensors."""

    arch: MODEL_ARCH
    kind: str
    config: dict[str, Any]
    metadata: dict[str, Any]
    change: Callable[[str, np.ndarray, Any], np.ndarray] = same
    model: str = ""  # the class of transformers, where not that of causal models


GEMMA = {"attention.key_length": 12, "attention.value_length": 12, **RMS, **KV}
GEMMA_CONFIG = {"head_dim": 12, "rms_norm_eps": 1e-5}
A = MODEL_ARCH
CASES = {
    "llama": Case(A.LLAMA, "llama", {"rms_norm_eps": 1e-5}, {**RMS, **KV, "rope.dimension_count": 8}, permuted),
    "llama-odd": Case(
        A.LLAMA,
        "llama",
        {"rms_norm_eps": 1e-5, "head_dim": 12, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
        | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0}},
        {**RMS, **KV, "rope.dimension_count": 12, "attention.key_length": 12, "attention.value_length": 12}
        | {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0, "rope.freq_base": 500000.0},
        permuted,
    ),
    "qwen2": Case(A.QWEN2, "qwen2", {"rms_norm_eps": 1e-5}, {**RMS, **KV, "rope.freq_base": 10000.0}),
    "qwen2-yarn": Case(
        A.QWEN2,
        "qwen2",
        {"rms_norm_eps": 1e-5, "tie_word_embeddings": True}
        | {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 1e6}},
        {**RMS, **KV, "rope.freq_base": 1e6, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}
        | {"rope.scaling.original_context_length": 32},
    ),
    "qwen3": Case(
        A.QWEN3,
        "qwen3",
        {"rms_norm_eps": 1e-5, "head_dim": 16},
        {**RMS, **KV, "attention.key_length": 16, "attention.value_length": 16},
    ),
    "gemma": Case(A.GEMMA, "gemma", GEMMA_CONFIG, GEMMA, norms_plus_one),
    "gemma2": Case(
        A.GEMMA2,
        "gemma2",
        GEMMA_CONFIG | {"query_pre_attn_scalar": 12, "sliding_window": 20},
        GEMMA
        | {"attention.sliding_window": 20, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        norms_plus_one,
    ),
    "gemma3": Case(
        A.GEMMA3,
        "gemma3_text",
        GEMMA_CONFIG
        | {"query_pre_attn_scalar": 12, "sliding_window": 20, "num_hidden_layers": 7}
        | {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            }
        },
        GEMMA
        | {"attention.sliding_window": 20, "rope.freq_base": 1e6, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
        norms_plus_one,
    ),
    "phi3": Case(
        A.PHI3,
        "phi3",
        {"original_max_position_embeddings": 128},
        {**RMS, **KV, "rope.dimension_count": 8, "rope.scaling.original_context_length": 128, "attention.sliding_window": 0},
    ),
    "olmo2": Case(A.OLMO2, "olmo2", {"rms_norm_eps": 1e-5}, {**RMS, **KV}),
    "granite": Case(
        A.GRANITE,
        "granite",
        {"rms_norm_eps": 1e-5, "embedding_multiplier": 12.0, "attention_multiplier": 0.3, "residual_multiplier": 0.22}
        | {"logits_scaling": 8.0},
        {**RMS, **KV, "rope.dimension_count": 8, "embedding_scale": 12.0, "attention.scale": 0.3, "residual_scale": 0.22}
        | {"logit_scale": 8.0},
        permuted,
    ),
    "stablelm": Case(
        A.STABLELM,
        "stablelm",
        {"layer_norm_eps": 1e-5, "use_qkv_bias": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}
            | {"partial_rotary_factor": 0.25}},
        {**LAYER, **KV, "rope.dimension_count": 2, "use_parallel_residual": False},
    ),
    "gpt2": Case(
        A.GPT2,
        "gpt2",
        {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "n_inner": 128},
        {"feed_forward_length": 128, **LAYER},
        gpt2,
    ),
    "gptneox": Case(
        A.GPTNEOX,
        "gpt_neox",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        {**LAYER, "rope.dimension_count": 4, "use_parallel_residual": True},
        neox,
    ),
    "starcoder2": Case(A.STARCODER2, "starcoder2", {}, {**LAYER, **KV}),
    "command-r": Case(
        A.COMMAND_R,
        "cohere",
        {"use_qk_norm": True, "logit_scale": 0.125},
        {**LAYER, **KV, "logit_scale": 0.125, "rope.scaling.type": "none", "rope.freq_base": 500000.0},
    ),
    "cohere2": Case(
        A.COHERE2,
        "cohere2",
        {"logit_scale": 0.125, "sliding_window": 20, "num_hidden_layers": 5},
        {**LAYER, **KV, "logit_scale": 0.125, "rope.scaling.type": "none", "attention.sliding_window": 20}
        | {"rope.dimension_count": 8},
    ),
    "glm4": Case(
        A.GLM4,
        "glm4",
        {"head_dim": 8, "rms_norm_eps": 1e-5, "attention_bias": True}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        {**RMS, **KV, "rope.dimension_count": 4},
    ),
    "chatglm": Case(
        A.CHATGLM,
        "glm",
        {"head_dim": 8, "rms_norm_eps": 1e-5, "attention_bias": True}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        {**RMS, **KV, "rope.dimension_count": 4},
    ),
    "bert": Case(
        A.BERT,
        "bert",
        {"layer_norm_eps": 1e-5},
        {**LAYER, "attention.causal": False, "pooling_type": 1},
        model="BertModel",
    ),
    "modern-bert": Case(
        A.MODERN_BERT,
        "modernbert",
        {"local_attention": 20, "num_hidden_layers": 5, "cls_token_id": 1, "sep_token_id": 2},
        {**LAYER, "attention.causal": False, "attention.sliding_window": 20, "attention.sliding_window_pattern": 3}
        | {"rope.scaling.type": "none", "rope.freq_base": 160000.0, "rope.freq_base_swa": 10000.0},
        model="ModernBertModel",
    ),
}  # fmt: skip


@functools.cache
def reference(name: str) -> tuple[Any, dict[str, np.ndarray]]:
    """Config and tensors of a random model of transformers."""
    case = CASES[name]
    given = SMALL | case.config
    if case.kind in ("gpt2",):
        given = case.config | {k: SMALL[k] for k in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}
    if case.kind in ("bert", "gpt_neox", "modernbert"):
        given = {k: v for k, v in given.items() if k != "num_key_value_heads"}
    config = transformers.AutoConfig.for_model(case.kind, **given)
    if case.model:
        model = getattr(transformers, case.model)(
            config, **({"add_pooling_layer": False} if case.kind == "bert" else {})
        )
    else:
        model = transformers.AutoModelForCausalLM.from_config(config)
    generator = np.random.default_rng(1)
    tensors = {
        key: generator.standard_normal(value.shape).astype(np.float32)
        for key, value in model.state_dict().items()
        if not key.endswith(("inv_freq", "position_ids", ".attn.bias", "masked_bias"))
    }
    if case.kind == "gpt_neox":
        tensors["embed_out.weight"] = tensors.pop("lm_head.weight")  # as checkpoints have it
    if getattr(config, "tie_word_embeddings", False):
        tensors = {k: v for k, v in tensors.items() if k not in ("lm_head.weight", "embed_out.weight")}
    return config, tensors


def written(path: Path, name: str, tensors: dict[str, np.ndarray] | None = None, **other: Any) -> Path:
    """The file of a case, of other `tensors` if they are given, with `other` metadata (see `write_gguf`)."""
    case = CASES[name]
    config, usual = reference(name)
    stored = converted(case.arch, tensors or usual, LAYERS, lambda n, a: case.change(n, a, config))
    tokens = {f"tokenizer__ggml__{t}_token_id": i for i, t in enumerate(("padding", "bos", "eos"))}
    metadata = llama_metadata(LlamaSizes(config), **case.metadata)
    return write_gguf(path / f"{name}.gguf", case.arch, metadata, stored, **tokens, **other)


class LlamaSizes:
    """A config under Llama's names, also where transformers has others (GPT-2)."""

    def __init__(self, config: Any) -> None:
        for key in ("max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
            setattr(self, key, getattr(config, key))
        self.intermediate_size = getattr(config, "intermediate_size", None) or config.n_inner
