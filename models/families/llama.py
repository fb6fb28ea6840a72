"""Llama 1 to 3.x (Touvron et al. 2023): pre-norm layers of rotary attention and a gated MLP. Other families vary its table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ..config import ConfigReader
from ..decoder import register_decoder
from ..decoder_config import DecoderConfig, finish, read_common
from ..weights import Weight

LAYER = "model.layers.{i}."
ATTENTION_WEIGHTS = tuple(
    f"layers.{{i}}.attn.{name}.weight" for name in "qkv"
)  # parts of a tensor where they are fused
ATTENTION_BIASES = tuple(f"layers.{{i}}.attn.{name}.bias" for name in "qkv")
GATE_UP_WEIGHTS = ("layers.{i}.mlp.gate.weight", "layers.{i}.mlp.up.weight")

TABLE = (
    Weight("embed.weight", ("model.embed_tokens.weight",), ("vocab", "hidden"), "embedding", when="untied"),
    Weight(
        "embed.weight",
        ("model.embed_tokens.weight", "lm_head.weight"),
        ("vocab", "hidden"),
        "embedding",
        when="tie_embeddings",
    ),
    Weight("layers.{i}.attn_norm.weight", (LAYER + "input_layernorm.weight",), ("hidden",), "vector"),
    Weight("layers.{i}.attn.q.weight", (LAYER + "self_attn.q_proj.weight",), ("heads", "hidden"), "linear"),
    Weight("layers.{i}.attn.q.bias", (LAYER + "self_attn.q_proj.bias",), ("heads",), "vector", when="qkv_bias"),
    Weight("layers.{i}.attn.k.weight", (LAYER + "self_attn.k_proj.weight",), ("kv_heads", "hidden"), "linear"),
    Weight("layers.{i}.attn.k.bias", (LAYER + "self_attn.k_proj.bias",), ("kv_heads",), "vector", when="qkv_bias"),
    Weight("layers.{i}.attn.v.weight", (LAYER + "self_attn.v_proj.weight",), ("kv_heads", "hidden"), "linear"),
    Weight("layers.{i}.attn.v.bias", (LAYER + "self_attn.v_proj.bias",), ("kv_heads",), "vector", when="qkv_bias"),
    Weight("layers.{i}.attn.o.weight", (LAYER + "self_attn.o_proj.weight",), ("hidden", "heads"), "linear"),
    Weight("layers.{i}.attn.o.bias", (LAYER + "self_attn.o_proj.bias",), ("hidden",), "vector", when="output_bias"),
    Weight("layers.{i}.mlp_norm.weight", (LAYER + "post_attention_layernorm.weight",), ("hidden",), "vector"),
    Weight("layers.{i}.mlp.gate.weight", (LAYER + "mlp.gate_proj.weight",), ("ffn", "hidden"), "linear"),
    Weight("layers.{i}.mlp.gate.bias", (LAYER + "mlp.gate_proj.bias",), ("ffn",), "vector", when="mlp_bias"),
    Weight("layers.{i}.mlp.up.weight", (LAYER + "mlp.up_proj.weight",), ("ffn", "hidden"), "linear"),
    Weight("layers.{i}.mlp.up.bias", (LAYER + "mlp.up_proj.bias",), ("ffn",), "vector", when="mlp_bias"),
    Weight("layers.{i}.mlp.down.weight", (LAYER + "mlp.down_proj.weight",), ("hidden", "ffn"), "linear"),
    Weight("layers.{i}.mlp.down.bias", (LAYER + "mlp.down_proj.bias",), ("hidden",), "vector", when="mlp_bias"),
    Weight("norm.weight", ("model.norm.weight",), ("hidden",), "vector"),
    Weight("lm_head.weight", ("lm_head.weight",), ("vocab", "hidden"), "linear", when="untied"),
)

IGNORED = r"(.*\.)?rotary_emb\.inv_freq"  # old checkpoints store these tables, which follow from the config


def varied(table: Sequence[Weight], *rows: Weight, without: Sequence[str] = ()) -> tuple[Weight, ...]:
    """A table with `rows` in place of those of the same parameters, or after them all, and without some parameters."""
    new: dict[str, list[Weight]] = {}
    for row in rows:
        new.setdefault(row.param, []).append(row)
    others = {*new, *without}
    kept = [own for row in table for own in (new.pop(row.param, []) if row.param in others else [row])]
    return (*kept, *(row for group in new.values() for row in group))


def norm_biases(table: Sequence[Weight]) -> tuple[Weight, ...]:
    """The rows of the biases that belong to a table's norm weights, for families with LayerNorm."""
    norms = [row for row in table if row.param.endswith("norm.weight")]
    return tuple(
        dataclasses.replace(
            row,
            param=row.param.removesuffix("weight") + "bias",
            source=tuple(name.removesuffix("weight") + "bias" for name in row.source),
            when="norm_bias",
        )
        for row in norms
    )


def llama_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """As many key heads as heads unless given; `attention_bias` is of q, k, v and o."""
    reader = ConfigReader(raw)
    fields = read_common(reader, "LlamaForCausalLM", context=2048)
    bias = reader.boolean("attention_bias", False)
    fields |= {"qkv_bias": bias, "output_bias": bias, "mlp_bias": reader.boolean("mlp_bias", False)}
    return finish(reader, fields)


register_decoder("LlamaForCausalLM", "llama", llama_config, TABLE, ignored=IGNORED)
