"""InternLM 2 and 2.5 (Cai et al. 2024): Llama under other names, with q, k and v of a key head stored together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import ConfigReader
from ..decoder import register_decoder
from ..decoder_config import DecoderConfig, finish, read_common
from ..weights import Weight, fused
from .llama import ATTENTION_BIASES, ATTENTION_WEIGHTS, IGNORED

_LAYER = "model.layers.{i}."
_EMBED = ("model.tok_embeddings.weight",)
_QKV = ("heads", "kv_heads", "kv_heads")

TABLE = (
    Weight("embed.weight", _EMBED, ("vocab", "hidden"), "embedding", when="untied"),
    Weight("embed.weight", (*_EMBED, "output.weight"), ("vocab", "hidden"), "embedding", when="tie_embeddings"),
    Weight("layers.{i}.attn_norm.weight", (_LAYER + "attention_norm.weight",), ("hidden",), "vector"),
    *fused(
        ATTENTION_WEIGHTS, _LAYER + "attention.wqkv.weight", _QKV, "linear", columns=("hidden",), groups="num_kv_heads"
    ),
    *fused(ATTENTION_BIASES, _LAYER + "attention.wqkv.bias", _QKV, "vector", when="qkv_bias", groups="num_kv_heads"),
    Weight("layers.{i}.attn.o.weight", (_LAYER + "attention.wo.weight",), ("hidden", "heads"), "linear"),
    Weight("layers.{i}.attn.o.bias", (_LAYER + "attention.wo.bias",), ("hidden",), "vector", when="output_bias"),
    Weight("layers.{i}.mlp_norm.weight", (_LAYER + "ffn_norm.weight",), ("hidden",), "vector"),
    Weight("layers.{i}.mlp.gate.weight", (_LAYER + "feed_forward.w1.weight",), ("ffn", "hidden"), "linear"),
    Weight("layers.{i}.mlp.up.weight", (_LAYER + "feed_forward.w3.weight",), ("ffn", "hidden"), "linear"),
    Weight("layers.{i}.mlp.down.weight", (_LAYER + "feed_forward.w2.weight",), ("hidden", "ffn"), "linear"),
    Weight("norm.weight", ("model.norm.weight",), ("hidden",), "vector"),
    Weight("lm_head.weight", ("output.weight",), ("vocab", "hidden"), "linear", when="untied"),
)


def internlm2_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """`bias` is of q, k, v and o. The published configs have rope_scaling "dynamic", which is static here (see rope.py)."""
    reader = ConfigReader(raw)
    fields = read_common(reader, "InternLM2ForCausalLM", context=2048)
    bias = reader.boolean("bias", True)
    return finish(reader, fields | {"qkv_bias": bias, "output_bias": bias})


register_decoder("InternLM2ForCausalLM", "internlm2", internlm2_config, TABLE, ignored=IGNORED)
