"""Importing this module fills the kernel registry and names every kernel factory."""

from __future__ import annotations

from .cpu.elementwise import add, add_bias
from .cpu.embedding import embedding
from .cpu.gather import gather_rows
from .cpu.kv_append import key_append, kv_append
from .cpu.linear import linear, row_tile
from .cpu.norm import layer_norm, rms_norm
from .cpu.pack import pack_rows
from .cpu.plan import build_plan
from .cpu.pointwise import activation, gated, scale, softcap
from .cpu.qkv_append import qkv_append
from .cpu.quant_embedding import quant_embedding
from .cpu.quant_linear_rows import quant_linear_rows
from .cpu.quant_linear_tiles import quant_linear_tiles
from .cpu.quant_pack import quant_pack
from .cpu.query_scale import query_scale
from .cpu.rope import rope, rope_table
from .cpu.sample import rank_tokens, sample_tokens
from .cpu.sample_edit import edit_logits
from .cpu.sample_mask import mask_logits
from .dot import DOT_ARCHITECTURES
from .layouts.scheme import Scheme
from .target import VECTOR, TargetProfile

__all__ = [
    "activation",
    "add",
    "add_bias",
    "build_plan",
    "edit_logits",
    "embedding",
    "gated",
    "gather_rows",
    "key_append",
    "kv_append",
    "layer_norm",
    "linear",
    "mask_logits",
    "pack_rows",
    "qkv_append",
    "quant_embedding",
    "quant_linear_rows",
    "quant_linear_tiles",
    "quant_pack",
    "query_scale",
    "rank_tokens",
    "rms_norm",
    "rope",
    "rope_table",
    "row_tile",
    "sample_tokens",
    "scale",
    "scheme_obstacle",
    "softcap",
]


def scheme_obstacle(scheme: Scheme, target: TargetProfile) -> str:
    """Why a target has no kernels for a quantization scheme; empty where it has."""
    if target.kernels == VECTOR and target.arch not in DOT_ARCHITECTURES:
        known = " and ".join(DOT_ARCHITECTURES)
        return f"vector kernels of quantized linears are for {known}, {target.name} is {target.arch}"
    return ""
