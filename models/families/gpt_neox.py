"""GPT-NeoX and Pythia (Black et al. 2022): parallel residual, part of each head rotated, q, k and v of a head stored together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import ConfigReader, renamed
from ..decoder import register_decoder
from ..decoder_config import DecoderConfig, finish, read_common
from ..weights import Weight, fused
from .llama import ATTENTION_BIASES, ATTENTION_WEIGHTS, norm_biases

_LAYER = "gpt_neox.layers.{i}."
_EMBED = ("gpt_neox.embed_in.weight",)
_HEAD = ("embed_out.weight", "lm_head.weight")
_QKV = ("heads", "kv_heads", "kv_heads")
_FUSED = _LAYER + "attention.query_key_value."

_TABLE = (
    Weight("embed.weight", _EMBED, ("vocab", "hidden"), "embedding", when="untied"),
    Weight("embed.weight", (*_EMBED, *_HEAD), ("vocab", "hidden"), "embedding", when="tie_embeddings"),
    Weight("layers.{i}.attn_norm.weight", (_LAYER + "input_layernorm.weight",), ("hidden",), "vector"),
    *fused(ATTENTION_WEIGHTS, _FUSED + "weight", _QKV, "linear", columns=("hidden",), groups="num_heads"),
    *fused(ATTENTION_BIASES, _FUSED + "bias", _QKV, "vector", when="qkv_bias", groups="num_heads"),
    Weight("layers.{i}.attn.o.weight", (_LAYER + "attention.dense.weight",), ("hidden", "heads"), "linear"),
    Weight("layers.{i}.attn.o.bias", (_LAYER + "attention.dense.bias",), ("hidden",), "vector", when="output_bias"),
    Weight("layers.{i}.mlp_norm.weight", (_LAYER + "post_attention_layernorm.weight",), ("hidden",), "vector"),
    Weight("layers.{i}.mlp.up.weight", (_LAYER + "mlp.dense_h_to_4h.weight",), ("ffn", "hidden"), "linear"),
    Weight("layers.{i}.mlp.up.bias", (_LAYER + "mlp.dense_h_to_4h.bias",), ("ffn",), "vector"),
    Weight("layers.{i}.mlp.down.weight", (_LAYER + "mlp.dense_4h_to_h.weight",), ("hidden", "ffn"), "linear"),
    Weight("layers.{i}.mlp.down.bias", (_LAYER + "mlp.dense_4h_to_h.bias",), ("hidden",), "vector"),
    Weight("norm.weight", ("gpt_neox.final_layer_norm.weight",), ("hidden",), "vector"),
    Weight("lm_head.weight", _HEAD, ("vocab", "hidden"), "linear", when="untied"),
)

TABLE = (*_TABLE, *norm_biases(_TABLE))

IGNORED = r"(.*\.)?attention\.((masked_)?bias|rotary_emb\.inv_freq)"  # masks and tables of old checkpoints


def gpt_neox_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """A quarter of each head is rotated unless given; `attention_bias` is of q, k, v and the output."""
    reader = ConfigReader(renamed(raw, {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"}))
    fields = read_common(
        reader,
        "GPTNeoXForCausalLM",
        context=2048,
        eps=1e-5,
        eps_key="layer_norm_eps",
        activation="gelu",
        partial_rotary=0.25,
    )
    bias = reader.boolean("attention_bias", True)
    fields |= {"qkv_bias": bias, "output_bias": bias, "mlp_bias": True, "gated": False}
    fields |= {"norm": "layer", "norm_bias": True, "parallel": reader.boolean("use_parallel_residual", True)}
    return finish(reader, fields)


register_decoder("GPTNeoXForCausalLM", "gpt_neox", gpt_neox_config, TABLE, ignored=IGNORED, base="gpt_neox.")
