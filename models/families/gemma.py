"""Gemma 1 to 3 (Gemma Team 2024, 2025): gated GELU MLPs, scaled embeddings, and norms whose weights are stored less 1.

Gemma 2 adds norms after attention and MLP, soft-capped scores and logits, and windows in every other layer. Gemma 3 has norms
of q and k instead of the caps, windows in five of six layers, and another rotary base in these. Of its checkpoints with a vision
tower the language model is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from ..config import ConfigReader
from ..decoder import register_decoder
from ..decoder_config import LAYER_TYPES, DecoderConfig, finish, read_alternation, read_common
from ..multimodal import IGNORED_TOWERS, language_config, language_table
from ..rope_config import read_layer_ropes
from ..weights import Weight
from .llama import IGNORED, LAYER, TABLE, varied
from .qwen import QK_NORMS

NORMS = ("attn_norm", "attn_post_norm", "mlp_norm", "mlp_post_norm")


def _norm(param: str, name: str) -> Weight:
    return Weight(f"layers.{{i}}.{param}.weight", (f"{LAYER}{name}.weight",), ("hidden",), "vector")


def _plus_one(table: Sequence[Weight]) -> tuple[Weight, ...]:
    """A table whose norm weights are stored less 1."""
    norms = {row.param for row in table if row.param.endswith("norm.weight")}
    return tuple(dataclasses.replace(row, offset=1.0) if row.param in norms else row for row in table)


_POST_NORMS = (
    _norm("attn_post_norm", "post_attention_layernorm"),
    _norm("mlp_norm", "pre_feedforward_layernorm"),
    _norm("mlp_post_norm", "post_feedforward_layernorm"),
)
GEMMA = _plus_one(TABLE)
GEMMA2 = _plus_one(varied(TABLE, *_POST_NORMS))
GEMMA3 = _plus_one(varied(TABLE, *_POST_NORMS, *QK_NORMS))

GEMMA3_DEFAULTS = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
"""Sizes that the text_config of published Gemma 3 checkpoints leaves out where they are these."""


def _common(reader: ConfigReader, architecture: str, *, context: int, kv_heads: int, **options: Any) -> dict[str, Any]:
    """What all Gemmas share. The scale of the embeddings is rounded to the type of the weights, as in transformers."""
    usual: dict[str, Any] = {"head_dim": 256, "tied": True, "activation": "gelu_pytorch_tanh"}
    fields = read_common(reader, architecture, context=context, kv_heads=kv_heads, **usual, **options)
    bias = reader.boolean("attention_bias", False)
    reader.fixed("use_bidirectional_attention", False)
    return fields | {
        "qkv_bias": bias,
        "output_bias": bias,
        "embed_scale": _rounded(fields["hidden_size"] ** 0.5, fields["checkpoint_dtype"]),
    }


def _rounded(value: float, dtype: str) -> float:
    return float(np.float32(value).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))


def gemma_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Gemma 1. The first releases say `gelu` and mean its tanh form."""
    reader = ConfigReader(raw)
    fields = _common(reader, "GemmaForCausalLM", context=8192, kv_heads=16)
    reader.fixed("hidden_activation", "gelu_pytorch_tanh")
    if fields["activation"] == "gelu":
        fields["activation"] = "gelu_tanh"
    return finish(reader, fields)


def gemma2_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Gemma 2. `sliding_window_size` repeats `sliding_window` in some releases, `hidden_act` the activation."""
    reader = ConfigReader(raw)
    fields = _common(reader, "Gemma2ForCausalLM", context=8192, kv_heads=4, activation_key="hidden_activation")
    windows = read_alternation(reader, fields["num_layers"], 2, key="")
    reader.fixed("sliding_window_size", max(windows))
    fields |= _queries(reader) | {
        "windows": windows,
        "norms": NORMS,
        "attention_softcap": _cap(reader, "attn_logit_softcapping", 50.0),
        "logit_softcap": _cap(reader, "final_logit_softcapping", 30.0),
    }
    return finish(reader, fields)


def gemma3_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """The language model of Gemma 3. transformers does not cap its scores, whatever the config says."""
    reader = ConfigReader(raw)
    options: dict[str, Any] = {"activation_key": "hidden_activation", "rope": False}
    fields = _common(reader, "Gemma3ForCausalLM", context=131072, kv_heads=4, **options)
    windows = read_alternation(reader, fields["num_layers"], 6)
    types = [LAYER_TYPES[window > 0] for window in windows]
    bases = {"full_attention": ("rope_theta", 1e6), "sliding_attention": ("rope_local_base_freq", 1e4)}
    sizes = {"head_dim": fields["head_dim"], "context": fields["context_length"]}
    reader.fixed("attn_logit_softcapping")
    fields |= _queries(reader) | {
        "windows": windows,
        "ropes": read_layer_ropes(reader, types, bases=bases, **sizes),
        "norms": NORMS,
        "qk_norm": "head",
        "logit_softcap": _cap(reader, "final_logit_softcapping", None),
    }
    return finish(reader, fields)


def gemma3_vision_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Gemma 3 with a vision tower."""
    keys = ("mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index", "image_token_id")
    readers = {"gemma3_text": gemma3_config}
    return language_config(raw, "Gemma3ForConditionalGeneration", readers, keys=keys, defaults=GEMMA3_DEFAULTS)


def _queries(reader: ConfigReader) -> dict[str, Any]:
    """The scale of scores, and a key that releases of Gemma 2 and 3 have beside `hidden_activation`."""
    reader.fixed("hidden_act", "gelu_pytorch_tanh")
    return {"attention_scale": reader.number("query_pre_attn_scalar", 256) ** -0.5}


def _cap(reader: ConfigReader, key: str, default: float | None) -> float:
    """A cap, 0 for none: null says none."""
    reader.seen.add(key)
    if reader.raw.get(key, default) is None:
        return 0.0
    return reader.number(key, default)


register_decoder("GemmaForCausalLM", "gemma", gemma_config, GEMMA, ignored=IGNORED)
register_decoder("Gemma2ForCausalLM", "gemma2", gemma2_config, GEMMA2, ignored=IGNORED)
register_decoder("Gemma3ForCausalLM", "gemma3_text", gemma3_config, GEMMA3, ignored=IGNORED)
register_decoder(
    "Gemma3ForConditionalGeneration",
    "gemma3",
    gemma3_vision_config,
    language_table(GEMMA3),
    ignored=f"{IGNORED_TOWERS}|{IGNORED}",
)
