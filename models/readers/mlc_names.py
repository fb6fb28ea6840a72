"""MLC LLM's configs and parameter names in Hugging Face's terms, a row a family."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from ..config import RawConfig


@dataclasses.dataclass(frozen=True)
class Family:
    """How MLC's implementation of a family departs from Hugging Face's.

    `qkv` and `gate_up` are the names of projections that are fused there alone; `plus_one` matches norm weights that have 1
    added; `renames` are (pattern, replacement) for names, in order.
    """

    architecture: str
    qkv: str = "qkv_proj"
    gate_up: str = "gate_up_proj"
    plus_one: str = ""
    renames: tuple[tuple[str, str], ...] = ()


_PHI3 = (
    (r"^transformer\.embd\.", "model.embed_tokens."),
    (r"^transformer\.norm\.", "model.norm."),
    (r"^transformer\.h\.(\d+)\.ln\.", r"model.layers.\1.input_layernorm."),
    (r"^transformer\.h\.(\d+)\.mixer\.out_proj\.", r"model.layers.\1.self_attn.o_proj."),
    (r"^transformer\.h\.(\d+)\.mixer\.", r"model.layers.\1.self_attn."),
    (r"^transformer\.h\.", "model.layers."),
)
_GEMMA_NORMS = r"norm\.weight$"

FAMILIES: Mapping[str, Family] = {
    "gemma": Family("GemmaForCausalLM", plus_one=_GEMMA_NORMS),
    "gemma2": Family("Gemma2ForCausalLM", plus_one=_GEMMA_NORMS),
    "llama": Family("LlamaForCausalLM"),
    "mistral": Family("MistralForCausalLM"),
    "olmo2": Family("Olmo2ForCausalLM"),
    "phi3": Family("Phi3ForCausalLM", qkv="", gate_up="", renames=_PHI3),
    "qwen2": Family("Qwen2ForCausalLM", qkv="c_attn"),
    "qwen3": Family("Qwen3ForCausalLM", qkv="c_attn"),
    "stablelm": Family("StableLmForCausalLM"),
}

_RENAMED = {
    "position_embedding_base": "rope_theta",
    "context_window_size": "max_position_embeddings",
    "sliding_window_size": "sliding_window",
}
_OWN = {  # how MLC serves the model, not what it computes
    "active_vocab_size",
    "attention_sink_size",
    "disaggregation",
    "dtype",
    "max_batch_size",
    "pipeline_parallel_stages",
    "prefill_chunk_size",
    "tensor_parallel_shards",
    "weight_block_size",
}
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def hf_config(raw: Mapping[str, Any], dtype: str) -> RawConfig:
    """An mlc-chat-config.json as config.json; `dtype` is the type of the model's floats."""
    model_type = raw["model_type"]
    config: RawConfig = {"architectures": [FAMILIES[model_type].architecture], "model_type": model_type, "dtype": dtype}
    for key, value in raw["model_config"].items():
        # -1 and 0 stand for values that are not set
        if key in _OWN or value is None or (key in _RENAMED and value in (-1, 0)):
            continue
        config.setdefault(_RENAMED.get(key, key), value)
    return config | {key: raw[key] for key in _TOKENS if raw.get(key) is not None}


def hf_parts(name: str, family: Family, config: RawConfig, rows: int) -> dict[str, slice]:
    """The Hugging Face parameters in MLC's parameter `name` of `rows` rows, each with its rows.

    Raises ValueError where the rows are not those of the config.
    """
    for pattern, replacement in family.renames:
        name = re.sub(pattern, replacement, name)
    site, _, rest = name.rpartition(".")
    parent, _, module = site.rpartition(".")
    if module == family.qkv:
        heads = config["num_attention_heads"]
        dim = config.get("head_dim") or config["hidden_size"] // heads
        sizes = {"q_proj": heads * dim}
        sizes |= dict.fromkeys(("k_proj", "v_proj"), config.get("num_key_value_heads", heads) * dim)
    elif module == family.gate_up:
        sizes = dict.fromkeys(("gate_proj", "up_proj"), rows // 2)
    else:
        return {name: slice(0, rows)}
    if sum(sizes.values()) != rows:
        raise ValueError(f"{rows} rows are not {' + '.join(map(str, sizes.values()))}, as the config has it")
    starts = [sum([*sizes.values()][:i]) for i in range(len(sizes))]
    return {
        f"{parent}.{part}.{rest}": slice(start, start + size)
        for (part, size), start in zip(sizes.items(), starts, strict=True)
    }
