"""Row-wise ops: embedding, activation functions and other pointwise ones, residual sum, row selection."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...schedules.activations import ACTIVATIONS
from ...schedules.activations import activation as function
from ...schedules.compat import TensorType, nn, relax
from ...schedules.layouts import tile32
from ...schedules.registry import KERNELS, Tolerance
from .linear import widen
from .registry import (
    WEIGHT_DTYPES,
    DialectOp,
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


# ---------------------------------------------------------------------------------------------------------- pointwise
def _pointwise(name: str, doc: str, operands: int, samples: list[dict[str, Any]], flops: int) -> DialectOp:
    """An op whose attributes are its kernel's parameters and whose reference is its kernel's."""

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
        attrs = {key: attr(call, key) for key in samples[0]}
        func = make_kernel(name, features=shape_of(call.args[0])[1], **attrs)
        return call_kernel(builder, func, name, call.args, call.ty)

    return dialect_op(
        name,
        doc,
        infer=lambda call: tensor(shape_of(call.args[0])),
        legalize=legalize,
        reference=KERNELS[name].reference,
        samples=lambda rng, dtype: [Sample([_normal(rng, 5, 40) for _ in range(operands)], attrs) for attrs in samples],
        tolerance=KERNELS[name].tolerance,
        flops=lambda call: flops * _elements(call),
    )


_KINDS = [{"kind": kind} for kind in ACTIVATIONS]
activation_op = _pointwise("activation", f"kind(x), kind one of {', '.join(ACTIVATIONS)}", 1, _KINDS, 16)
gated_op = _pointwise("gated", "kind(gate) * up: the gate of a feed-forward layer (Shazeer 2020)", 2, _KINDS, 17)
add_op = _pointwise("add", "x + y of equal shapes: the residual sum", 2, [{}], 1)
scale_op = _pointwise("scale", "x * factor", 1, [{"factor": 0.22}], 1)
softcap_op = _pointwise("softcap", "cap * tanh(x / cap)", 1, [{"cap": 30.0}], 20)


def activation(x: nn.Tensor, *, kind: str) -> nn.Tensor:
    """kind(x) of x [n, H]: relu, silu, gelu (with erf), gelu_tanh or relu2; ValueError for any other."""
    function(kind)
    return activation_op.emit(x, kind=kind)


def gated(gate: nn.Tensor, up: nn.Tensor, *, kind: str) -> nn.Tensor:
    """kind(gate) * up, both [n, F]; kinds as in `activation`."""
    function(kind)
    return gated_op.emit(gate, up, kind=kind)


def add(x: nn.Tensor, y: nn.Tensor) -> nn.Tensor:
    """The residual sum of two [n, H]."""
    return add_op.emit(x, y)


def scale(x: nn.Tensor, factor: float) -> nn.Tensor:
    """x [n, H] times a number that is rounded to float32; x itself where the number is 1."""
    return x if factor == 1 else scale_op.emit(x, factor=float(factor))


def softcap(x: nn.Tensor, cap: float) -> nn.Tensor:
    """cap * tanh(x / cap) of x [n, H] (Gemma 2, 2024); x itself where the cap is 0."""
    return x if not cap else softcap_op.emit(x, cap=float(cap))


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
