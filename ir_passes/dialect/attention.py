"""Rotary positions, the paged KV cache, and attention over it.

The cache is an ordinary tensor [pages, layers, kv heads, PAGE * (K head size + V head size)]; appending gives its new value,
and legalization makes that an update in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...runtime.plans import PlanLayout
from ...runtime.plans.cache import STORAGE
from ...schedules.compat import nn, relax, tirx
from ...schedules.registry import KERNELS, Tolerance
from ..sparse import catalog as _catalog  # noqa: F401  (registers the attention kernel)
from .registry import (
    WEIGHT_DTYPES,
    Expr,
    PrimExpr,
    attr,
    call_kernel,
    call_kernel_inplace,
    dialect_op,
    kernel_samples,
    make_kernel,
    shape_of,
    tensor,
)

KV_DTYPES = {stored: dtype for dtype, stored in STORAGE.items()}
CACHE_ATTRS = ("kv_heads", "head_dim", "max_tokens", "max_seqs")


def _cache_params(call: relax.Call, cache: int) -> dict[str, Any]:
    """Kernel parameters that the cache argument and the common attributes determine."""
    _, layers, _, _ = shape_of(call.args[cache])
    dtype = str(call.args[cache].ty.dtype)
    params = {name: attr(call, name) for name in CACHE_ATTRS}
    return params | {"layers": layers, "kv_dtype": KV_DTYPES[dtype]}


def _layer(call: relax.Call) -> tirx.IntImm:
    return tirx.IntImm("int64", attr(call, "layer"))


# --------------------------------------------------------------------------------------------------------- rope_table
def _legalize_table(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    func = make_kernel("rope_table", rotary_dim=2 * shape_of(call.args[1])[0])
    return call_kernel(builder, func, "rope_table", call.args, call.ty)


rope_table_op = dialect_op(
    "rope_table",
    "cos | sin of positions times inverse frequencies, times a scale: the rotary table of one step",
    infer=lambda call: tensor([shape_of(call.args[0])[0], 2 * shape_of(call.args[1])[0]]),
    legalize=_legalize_table,
    reference=lambda positions, inv_freq, scale: KERNELS["rope_table"].reference(
        positions, inv_freq, scale, rotary_dim=2 * len(inv_freq)
    ),
    samples=kernel_samples("rope_table", lambda params: {}),
    tolerance=Tolerance(1e-6, "libm's cosf and sinf"),
    flops=lambda call: 20 * shape_of(call.args[0])[0] * shape_of(call.args[1])[0],
)


def rope_table(positions: nn.Tensor, inv_freq: np.ndarray, scale: float) -> nn.Tensor:
    """positions int32 [n], inv_freq float32 [R/2]: float32 [n, R], cos then sin (Su et al. 2021)."""
    constants = [nn.Tensor.from_const(np.asarray(c, np.float32)) for c in (inv_freq, [scale])]
    return rope_table_op.emit(positions, *constants)


# --------------------------------------------------------------------------------------------------------------- rope
def _legalize_rope(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    func = make_kernel(
        "rope",
        heads=attr(call, "heads"),
        head_dim=attr(call, "head_dim"),
        rotary_dim=shape_of(call.args[1])[1],
        interleaved=bool(attr(call, "interleaved")),
    )
    return call_kernel(builder, func, "rope", call.args, call.ty)


def _elements(call: relax.Call) -> PrimExpr:
    rows, columns = shape_of(call.args[0])
    return rows * columns


rope_op = dialect_op(
    "rope",
    "rotate the heads of x [n, heads * head_dim] by the table [n, R]; dimensions from R on pass through",
    infer=lambda call: tensor(shape_of(call.args[0])),
    legalize=_legalize_rope,
    reference=lambda x, table, **attrs: KERNELS["rope"].reference(x, table, rotary_dim=table.shape[1], **attrs),
    samples=kernel_samples("rope", lambda p: {k: p[k] for k in ("heads", "head_dim", "interleaved")}),
    tolerance=Tolerance(1e-6, "two products and a sum"),
    flops=lambda call: 3 * _elements(call),
)


def rope(x: nn.Tensor, table: nn.Tensor, *, heads: int, head_dim: int, interleaved: bool = False) -> nn.Tensor:
    """Rotary embedding: halves of the rotary part are paired (Llama), or neighbours where `interleaved` (GPT-J)."""
    return rope_op.emit(x, table, heads=heads, head_dim=head_dim, interleaved=interleaved)


# -------------------------------------------------------------------------------------------------------- query_scale
def _legalize_query_scale(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    params = {name: attr(call, name) for name in ("beta", "length")}
    func = make_kernel("query_scale", features=shape_of(call.args[0])[1], **params)
    return call_kernel(builder, func, "query_scale", call.args, call.ty)


query_scale_op = dialect_op(
    "query_scale",
    "x [n, H] * (1 + beta * log(1 + position // length)), positions [n]",
    infer=lambda call: tensor(shape_of(call.args[0])),
    legalize=_legalize_query_scale,
    reference=KERNELS["query_scale"].reference,
    samples=kernel_samples("query_scale", lambda p: {k: p[k] for k in ("beta", "length")}),
    tolerance=KERNELS["query_scale"].tolerance,
    flops=_elements,
)


def query_scale(x: nn.Tensor, positions: nn.Tensor, *, beta: float, length: int) -> nn.Tensor:
    """Queries x [n, H] that grow with the logarithm of their positions int32 [n], in steps of `length` (Llama 4, 2025)."""
    return query_scale_op.emit(x, positions, beta=float(beta), length=length)


# ---------------------------------------------------------------------------------------------------------- kv_append
def _legalize_append(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    func = make_kernel("kv_append", **_cache_params(call, 3), value_dim=attr(call, "value_dim"))
    return call_kernel_inplace(builder, func, "kv_append", [*call.args, _layer(call)], [3], [call.args[3].ty])


kv_append_op = dialect_op(
    "kv_append",
    "write k [n, kv_heads * head_dim] and v [n, kv_heads * value_dim] to the plan's slots of one layer: the new cache",
    infer=lambda call: call.args[3].ty,
    legalize=_legalize_append,
    reference=lambda *arrays, layer, **attrs: KERNELS["kv_append"].reference(
        *arrays, np.int64(layer), **_reference_params(arrays[3], attrs)
    ),
    samples=kernel_samples("kv_append", lambda p: {k: p[k] for k in (*CACHE_ATTRS, "value_dim")}),
    tolerance=Tolerance(0.0, "one rounding to the cache's dtype"),
    flops=lambda call: 0,
    bytes=lambda call: 12 * _elements(call),
    dtypes=WEIGHT_DTYPES,
)


def _reference_params(cache: np.ndarray, attrs: dict[str, Any]) -> dict[str, Any]:
    return attrs | {"layers": cache.shape[1], "kv_dtype": KV_DTYPES[cache.dtype.name]}


def kv_append(
    k: nn.Tensor,
    v: nn.Tensor,
    plan: nn.Tensor,
    cache: nn.Tensor,
    *,
    layer: int,
    kv_heads: int,
    head_dim: int,
    layout: PlanLayout,
    value_dim: int = 0,
) -> nn.Tensor:
    """k [n, kv_heads * head_dim], v [n, kv_heads * value_dim], float32: the cache with row i written to slot[i] of the plan.

    `value_dim` is `head_dim` where it is not given.
    """
    sizes = {"max_tokens": layout.max_tokens, "max_seqs": layout.max_seqs, "value_dim": value_dim or head_dim}
    return kv_append_op.emit(k, v, plan, cache, layer=layer, kv_heads=kv_heads, head_dim=head_dim, **sizes)


# --------------------------------------------------------------------------------------------------------- key_append
def _legalize_key_append(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    func = make_kernel("key_append", **_cache_params(call, 2))
    return call_kernel_inplace(builder, func, "key_append", [*call.args, _layer(call)], [2], [call.args[2].ty])


key_append_op = dialect_op(
    "key_append",
    "write k [n, kv_heads * head_dim] to the plan's slots of one layer, for pages of keys alone: the new cache",
    infer=lambda call: call.args[2].ty,
    legalize=_legalize_key_append,
    reference=lambda *arrays, layer, **attrs: KERNELS["key_append"].reference(
        *arrays, np.int64(layer), **_reference_params(arrays[2], attrs)
    ),
    samples=kernel_samples("key_append", lambda p: {k: p[k] for k in CACHE_ATTRS}),
    tolerance=Tolerance(0.0, "one rounding to the cache's dtype"),
    flops=lambda call: 0,
    bytes=lambda call: 6 * _elements(call),
    dtypes=("float32", "float16", "bfloat16"),
)


def key_append(
    k: nn.Tensor, plan: nn.Tensor, cache: nn.Tensor, *, layer: int, kv_heads: int, head_dim: int, layout: PlanLayout
) -> nn.Tensor:
    """k float32 [n, kv_heads * head_dim]: the cache of keys alone, whose values are views of them, with row i in slot[i]."""
    sizes = {"max_tokens": layout.max_tokens, "max_seqs": layout.max_seqs}
    return key_append_op.emit(k, plan, cache, layer=layer, kv_heads=kv_heads, head_dim=head_dim, **sizes)


# --------------------------------------------------------------------------------------------------------- qkv_append
NORM_ATTRS = ("norm", "norm_eps", "norm_over")


def _infer_qkv_append(call: relax.Call) -> relax.TupleType:
    queries = tensor([shape_of(call.args[0])[0], attr(call, "heads") * attr(call, "head_dim")])
    return relax.TupleType([call.args[2].ty, queries])


def _legalize_qkv_append(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    qkv, plan, cache, *operands = call.args
    params = _cache_params(call, 2) | {name: attr(call, name) for name in ("heads", *NORM_ATTRS)}
    params["interleaved"] = bool(attr(call, "interleaved"))
    params["rotary_dim"] = shape_of(operands[0])[1] if len(operands) % 2 else 0
    func = make_kernel("qkv_append", **params)
    args = [qkv, plan, cache, _layer(call), *operands]
    return call_kernel_inplace(builder, func, "qkv_append", args, [2, -1], call.ty.fields)


def _reference_qkv_append(
    qkv: np.ndarray, plan: np.ndarray, cache: np.ndarray, *operands: np.ndarray, layer: int, **attrs: Any
) -> tuple[np.ndarray, ...]:
    params = _reference_params(cache, attrs) | {"rotary_dim": operands[0].shape[1] if len(operands) % 2 else 0}
    return KERNELS["qkv_append"].reference(qkv, plan, cache, np.int64(layer), *operands, **params)


qkv_append_op = dialect_op(
    "qkv_append",
    "take a merged projection [n, q | k | v] apart: k and v to the plan's slots of one layer, q on its own; (new cache, q). Behind "
    "the cache come the rotary table, where q and k are rotated, and weights of q and of k, where they are normalised before",
    infer=_infer_qkv_append,
    legalize=_legalize_qkv_append,
    reference=_reference_qkv_append,
    samples=kernel_samples(
        "qkv_append", lambda p: {k: p[k] for k in (*CACHE_ATTRS, "heads", "interleaved", *NORM_ATTRS)}
    ),
    tolerance=KERNELS["qkv_append"].tolerance,
    flops=lambda call: (3 * (len(call.args) % 2 == 0) + 4 * bool(attr(call, "norm"))) * _elements(call),
    dtypes=WEIGHT_DTYPES,
)


# ---------------------------------------------------------------------------------------------------------- attention
ATTENTION_ATTRS = ("heads", "scale", "rows", "value_dim", "window", "lookahead", "sinks", "softcap", "tree_words")


def _attention_params(call: relax.Call) -> dict[str, Any]:
    params = _cache_params(call, 3) | {name: attr(call, name) for name in ATTENTION_ATTRS}
    return params | {"sink_logits": len(call.args) == 5, "shared_values": bool(attr(call, "shared_values"))}


def _infer_attention(call: relax.Call) -> Any:
    return tensor([shape_of(call.args[0])[0], attr(call, "heads") * attr(call, "value_dim")])


def _legalize_attention(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    params = _attention_params(call)
    func = make_kernel("attention", **params)
    args = [*call.args[:4], _layer(call), *call.args[4:]]
    states = [tensor(shape) for shape in KERNELS["attention"].scratch(**params)]
    both = builder.emit(call_kernel(builder, func, "attention", args, [call.ty, *states]))
    return relax.TupleGetItem(both, 0)


def _context() -> PrimExpr:
    return tirx.Var("context", "int64")


def _attention_reference(*arrays: np.ndarray, layer: int, **attrs: Any) -> tuple[np.ndarray, ...]:
    params = _reference_params(arrays[3], attrs)
    return KERNELS["attention"].reference(*arrays[:4], np.int64(layer), *arrays[4:], **params)


attention_op = dialect_op(
    "attention",
    "attention of q [n, heads * head_dim] over the pages of each row's sequence; `AttentionSpec` says what a row sees",
    infer=_infer_attention,
    legalize=_legalize_attention,
    reference=_attention_reference,
    samples=kernel_samples(
        "attention",
        lambda p: (
            {"shared_values": False}
            | {k: v for k, v in p.items() if k in (*CACHE_ATTRS, *ATTENTION_ATTRS, "shared_values")}
        ),
    ),
    tolerance=Tolerance(2e-5, "a float32 softmax over tiles with a polynomial exponential"),
    flops=lambda call: 4 * _elements(call) * _context(),
    bytes=lambda call: 8 * _elements(call) + 2 * _context() * attr(call, "kv_heads") * attr(call, "head_dim") * 4,
    dtypes=WEIGHT_DTYPES,
)


def attention(
    q: nn.Tensor,
    positions: nn.Tensor,
    plan: nn.Tensor,
    cache: nn.Tensor,
    sink_logits: nn.Tensor | None = None,
    *,
    layer: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    scale: float,
    layout: PlanLayout,
    value_dim: int = 0,
    window: int = 0,
    lookahead: int = -1,
    sinks: int = 0,
    softcap: float = 0.0,
    shared_values: bool = False,
) -> nn.Tensor:
    """q float32 [n, heads * head_dim], positions int32 [n] (, sink_logits float32 [heads]): float32 [n, heads * value_dim].

    `AttentionSpec` says what the variants mean.
    """
    sizes = {"max_tokens": layout.max_tokens, "max_seqs": layout.max_seqs, "tree_words": layout.tree_words}
    attrs: dict[str, Any] = {
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "value_dim": value_dim or head_dim,
    }
    attrs |= {
        "scale": float(scale),
        "window": window,
        "lookahead": lookahead,
        "sinks": sinks,
        "softcap": float(softcap),
        "shared_values": shared_values,
    }
    inputs = [q, positions, plan, cache] + ([sink_logits] if sink_logits is not None else [])
    return attention_op.emit(*inputs, layer=layer, rows="any", **attrs, **sizes)
