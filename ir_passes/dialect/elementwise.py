"""Row-wise ops: embedding, normalisation, activation, residual sum, row selection."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...schedules.compat import TensorType, nn, relax
from ...schedules.layouts import tile32
from ...schedules.registry import Tolerance
from .linear import silu_reference, widen
from .registry import (
    WEIGHT_DTYPES,
    Expr,
    PrimExpr,
    Sample,
    attr,
    call_kernel,
    dialect_op,
    make_kernel,
    shape_of,
    tensor,
)
from .weights import pack_weight, random_weight

EXACT = Tolerance(0.0, "values are moved or added once")


def _elements(call: relax.Call) -> PrimExpr:
    rows, columns = shape_of(call.args[0])
    return rows * columns


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


# ---------------------------------------------------------------------------------------------------------- embedding
def _infer_embedding(call: relax.Call) -> TensorType:
    return tensor([shape_of(call.args[0])[0], attr(call, "hidden")])


def _legalize_embedding(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    ids, table = call.args
    layout = attr(call, "layout")
    if layout == "logical":
        table = builder.emit(pack_weight(table, layout="rows", parts=1))
    func = make_kernel(
        "embedding", features=attr(call, "hidden"), table_dtype=attr(call, "table_dtype"), packed=layout == "tile32"
    )
    return call_kernel(builder, func, "embedding", [ids, table], call.ty)


def _reference_embedding(
    ids: np.ndarray, table: np.ndarray, *, layout: str, table_dtype: str, **_: Any
) -> tuple[np.ndarray, ...]:
    if layout == "tile32":
        table = tile32.unpack(table, table.shape[0] * 32)
    if table.dtype.name == "bfloat16":
        table = table.view(np.uint16)
    return (widen(table[ids], table_dtype),)


def _sample_embedding(rng: np.random.Generator, dtype: str) -> list[Sample]:
    ids, table = rng.integers(0, 70, 9).astype(np.int32), random_weight(rng, (70, 24), dtype)
    stored = table.view(np.uint16) if dtype == "bfloat16" else table
    attrs = {"hidden": 24, "table_dtype": dtype, "site": "test", "scheme": ""}
    return [
        Sample([ids, table], attrs | {"layout": "logical"}),
        Sample([ids, stored], attrs | {"layout": "rows"}),
        Sample([ids, tile32.pack(stored)], attrs | {"layout": "tile32"}),
    ]


embedding_op = dialect_op(
    "embedding",
    "rows of a table [V, H] by token id, widened to float32; layout says how the table is stored",
    infer=_infer_embedding,
    legalize=_legalize_embedding,
    reference=_reference_embedding,
    samples=_sample_embedding,
    tolerance=EXACT,
    flops=lambda call: 0,
    bytes=lambda call: shape_of(call.args[0])[0] * attr(call, "hidden") * 8,
    dtypes=WEIGHT_DTYPES,
)


def embedding(ids: nn.Tensor, table: nn.Tensor, *, site: str) -> nn.Tensor:
    """ids int32 [n], table [V, H] in its stored dtype: float32 [n, H]. `site` as in `linear`."""
    attrs = {"hidden": int(table.shape[1]), "table_dtype": str(table._expr.ty.dtype), "site": site}
    return embedding_op.emit(ids, table, layout="logical", scheme="", **attrs)


# ----------------------------------------------------------------------------------------------------------- rms_norm
def _legalize_norm(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    func = make_kernel("rms_norm", features=shape_of(call.args[0])[1], eps=attr(call, "eps"))
    return call_kernel(builder, func, "rms_norm", call.args, call.ty)


def _reference_norm(x: np.ndarray, weight: np.ndarray, *, eps: float) -> tuple[np.ndarray, ...]:
    x64 = x.astype(np.float64)
    return ((x64 / np.sqrt((x64**2).mean(1, keepdims=True) + eps) * weight).astype(np.float32),)


rms_norm_op = dialect_op(
    "rms_norm",
    "x / sqrt(mean(x**2) + eps) * weight over the last axis (Zhang and Sennrich 2019)",
    infer=lambda call: tensor(shape_of(call.args[0])),
    legalize=_legalize_norm,
    reference=_reference_norm,
    samples=lambda rng, dtype: [Sample([_normal(rng, 5, 40), _normal(rng, 40)], {"eps": 1e-5})],
    tolerance=Tolerance(1e-6, "a float32 mean of squares"),
    flops=lambda call: 4 * _elements(call),
)


def rms_norm(x: nn.Tensor, weight: nn.Tensor, *, eps: float) -> nn.Tensor:
    """x [n, H], weight float32 [H]: float32 [n, H]."""
    return rms_norm_op.emit(x, weight, eps=float(eps))


# ----------------------------------------------------------------------------------------------------- silu_mul, add, relu
def _legalize_pointwise(name: str) -> Any:
    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
        func = make_kernel(name, features=shape_of(call.args[0])[1])
        return call_kernel(builder, func, name, call.args, call.ty)

    return legalize


silu_mul_op = dialect_op(
    "silu_mul",
    "silu(gate) * up",
    infer=lambda call: tensor(shape_of(call.args[0])),
    legalize=_legalize_pointwise("silu_mul"),
    reference=lambda gate, up: ((silu_reference(gate.astype(np.float64)) * up).astype(np.float32),),
    samples=lambda rng, dtype: [Sample([_normal(rng, 5, 40), _normal(rng, 5, 40)], {})],
    tolerance=Tolerance(1e-6, "the exponential's polynomial"),
    flops=lambda call: 8 * _elements(call),
)

add_op = dialect_op(
    "add",
    "x + y of equal shapes: the residual sum",
    infer=lambda call: tensor(shape_of(call.args[0])),
    legalize=_legalize_pointwise("add"),
    reference=lambda x, y: (x + y,),
    samples=lambda rng, dtype: [Sample([_normal(rng, 5, 40), _normal(rng, 5, 40)], {})],
    tolerance=EXACT,
    flops=_elements,
)


relu_op = dialect_op(
    "relu",
    "max(x, 0)",
    infer=lambda call: tensor(shape_of(call.args[0])),
    legalize=_legalize_pointwise("relu"),
    reference=lambda x: (np.maximum(x, 0),),
    samples=lambda rng, dtype: [Sample([_normal(rng, 5, 40)], {})],
    tolerance=EXACT,
    flops=_elements,
)


def silu_mul(gate: nn.Tensor, up: nn.Tensor) -> nn.Tensor:
    """silu(gate) * up, both [n, F]."""
    return silu_mul_op.emit(gate, up)


def add(x: nn.Tensor, y: nn.Tensor) -> nn.Tensor:
    """The residual sum of two [n, H]."""
    return add_op.emit(x, y)


def relu(x: nn.Tensor) -> nn.Tensor:
    """max(x, 0) of x [n, H]."""
    return relu_op.emit(x)


# -------------------------------------------------------------------------------------------------------- gather_rows
def _legalize_gather(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    func = make_kernel("gather_rows", features=shape_of(call.args[0])[1])
    return call_kernel(builder, func, "gather_rows", call.args, call.ty)


gather_rows_op = dialect_op(
    "gather_rows",
    "x[rows]",
    infer=lambda call: tensor([shape_of(call.args[1])[0], shape_of(call.args[0])[1]]),
    legalize=_legalize_gather,
    reference=lambda x, rows: (x[rows],),
    samples=lambda rng, dtype: [Sample([_normal(rng, 5, 40), np.array([4, 0, 4], np.int32)], {})],
    tolerance=EXACT,
    flops=lambda call: 0,
    bytes=lambda call: shape_of(call.args[1])[0] * shape_of(call.args[0])[1] * 8,
)


def gather_rows(x: nn.Tensor, rows: nn.Tensor) -> nn.Tensor:
    """Rows of x [n, H] by index, rows int32 [r]: [r, H]."""
    return gather_rows_op.emit(x, rows)
