"""How a family of models stands in GGUF: what translates its metadata and tensor names to those of transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from .metadata import Facts

Names = dict[str, str | tuple[str, ...]]
"""transformers' names by GGUF's, both without `.weight` and `.bias`, with {i} for the layer.

A tuple takes the rows of one tensor apart: q, k and v. A name with {j} is a tensor for each row."""

DECODER_INTEGERS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
}
RMS_EPS = {"rms_norm_eps": "attention.layer_norm_rms_epsilon"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture of llama.cpp in the form of one of transformers.

    `integers` and `numbers` give config keys by metadata keys, `constants` what is the same for all models; `more` adds what
    only code can say. `rope` says where the rotary embedding goes: "" nowhere, else to `rope_parameters`. With `head_dim` the
    config always says it, else only where it is not hidden_size / num_attention_heads; with `partial` it always says which part
    of a head is rotated.

    Rows and values: `rotary_rows` undoes llama.cpp's order of the rows of q and k (pairs of dimensions side by side),
    `fused_rows` its order of those of attn_qkv (all of q, then k, then v; transformers keeps them together by head),
    `transposed` says that transformers stores the layers' matrices [in, out], and `norm_offset` is added to norm weights.
    """

    architecture: str
    model_type: str
    names: Names
    integers: Mapping[str, str] = dataclasses.field(default_factory=lambda: DECODER_INTEGERS)
    numbers: Mapping[str, str] = dataclasses.field(default_factory=lambda: RMS_EPS)
    constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    more: Callable[[Facts, dict[str, Any]], dict[str, Any]] | None = None
    kv_heads: bool = True
    head_dim: bool = False
    rope: bool = True
    partial: bool = False
    tied: bool | None = None
    rotary_rows: bool = False
    fused_rows: bool = False
    transposed: bool = False
    norm_offset: float = 0.0


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Heads, key heads and dimensions of a head: what the orders of rows follow."""

    heads: int
    kv_heads: int
    head_dim: int


def read_sizes(facts: Facts, hidden: int) -> Sizes:
    """The heads of a model with `hidden` features."""
    heads = facts.integer("attention.head_count")
    kv_heads = facts.integer("attention.head_count_kv", heads)
    head_dim = facts.integer("attention.key_length", max(1, hidden // heads))
    if facts.integer("attention.value_length", head_dim) != head_dim:
        facts.bad("keys and values have different sizes", "attention.key_length and attention.value_length must agree")
    if heads % kv_heads:
        facts.bad(f"{heads} attention heads cannot share {kv_heads} key/value heads", "they must divide")
    return Sizes(heads, kv_heads, head_dim)
