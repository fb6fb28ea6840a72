"""Importing this module fills the kernel registry and names every kernel factory."""

from __future__ import annotations

from .cpu.elementwise import add, add_bias, relu, silu_mul
from .cpu.embedding import embedding
from .cpu.gather import gather_rows
from .cpu.kv_append import key_append, kv_append
from .cpu.linear import linear, row_tile
from .cpu.norm import rms_norm
from .cpu.pack import pack_rows
from .cpu.plan import build_plan
from .cpu.quant_embedding import quant_embedding
from .cpu.quant_linear_rows import quant_linear_rows
from .cpu.quant_linear_tiles import quant_linear_tiles
from .cpu.quant_pack import quant_pack
from .cpu.rope import rope, rope_table
from .cpu.rope_append import rope_append
from .cpu.sample import rank_tokens, sample_tokens
from .cpu.sample_edit import edit_logits
from .cpu.sample_mask import mask_logits
from .layouts.scheme import Scheme
from .target import TargetProfile

__all__ = [
    "add",
    "add_bias",
    "build_plan",
    "edit_logits",
    "embedding",
    "gather_rows",
    "key_append",
    "kv_append",
    "linear",
    "mask_logits",
    "pack_rows",
    "quant_embedding",
    "quant_linear_rows",
    "quant_linear_tiles",
    "quant_pack",
    "rank_tokens",
    "relu",
    "rms_norm",
    "rope",
    "rope_append",
    "rope_table",
    "row_tile",
    "sample_tokens",
    "scheme_obstacle",
    "silu_mul",
]


def scheme_obstacle(scheme: Scheme, target: TargetProfile) -> str:
    """Why a target has no kernels for a quantization scheme; empty where it has."""
    if target.arch != "x86_64":
        return f"the kernels of quantized linears are for x86_64 so far, {target.name} is {target.arch}"
    return ""
