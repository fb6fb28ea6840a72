"""The `heddle.*` Relax dialect: what models emit and passes match. See registry.py for what every op must have."""

from __future__ import annotations

from ...schedules import catalog as _catalog  # fills the kernel registry that legalization reads
from .attention import (
    attention,
    attention_op,
    key_append,
    key_append_op,
    kv_append,
    kv_append_op,
    qkv_append_op,
    query_scale,
    query_scale_op,
    rope,
    rope_op,
    rope_table,
    rope_table_op,
)
from .elementwise import (
    activation,
    activation_op,
    add,
    add_op,
    embedding,
    embedding_op,
    gated,
    gated_op,
    gather_rows,
    gather_rows_op,
    scale,
    scale_op,
    softcap,
    softcap_op,
)
from .linear import linear, linear_op, pack_rows, packed_linear
from .norms import NO_NORM, layer_norm, layer_norm_op, norm_kind, rms_norm, rms_norm_op
from .quantized import quant_linear, quant_pack
from .quantized_weights import quant_embedding_op, quantize_weight
from .registry import OPS, DialectOp, SymbolicCost, attr, shape_of
from .sparse import grouped_matmul, sddmm, spmm
from .weights import pack_weight, pad_vector

__all__ = [
    "NO_NORM",
    "OPS",
    "DialectOp",
    "SymbolicCost",
    "activation",
    "activation_op",
    "add",
    "add_op",
    "attention",
    "attention_op",
    "attr",
    "embedding",
    "embedding_op",
    "gated",
    "gated_op",
    "gather_rows",
    "gather_rows_op",
    "grouped_matmul",
    "key_append",
    "key_append_op",
    "kv_append",
    "kv_append_op",
    "layer_norm",
    "layer_norm_op",
    "linear",
    "linear_op",
    "norm_kind",
    "pack_rows",
    "pack_weight",
    "packed_linear",
    "pad_vector",
    "quant_embedding_op",
    "quant_linear",
    "quant_pack",
    "quantize_weight",
    "qkv_append_op",
    "query_scale",
    "query_scale_op",
    "rms_norm",
    "rms_norm_op",
    "rope",
    "rope_op",
    "rope_table",
    "rope_table_op",
    "scale",
    "scale_op",
    "sddmm",
    "shape_of",
    "softcap",
    "softcap_op",
    "spmm",
]

del _catalog
