"""Ops on weights alone. They are lifted out of the step and evaluated once, at compile time, by their NumPy references."""

from __future__ import annotations

import numpy as np

from ...schedules.compat import TensorType, relax, te, tirx
from ...schedules.layouts import tile32
from ...schedules.registry import Tolerance
from .registry import WEIGHT_DTYPES, Sample, attr, dialect_op, shape_of, tensor

LANES = 32
EXACT = Tolerance(0.0, "weights are moved, never rounded")


def storage(dtype: str) -> str:
    """bfloat16 is stored as its bits: NumPy and DLPack do not know it."""
    return "uint16" if dtype == "bfloat16" else dtype


def _stored(array: np.ndarray) -> np.ndarray:
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


# -------------------------------------------------------------------------------------------------------- pack_weight
def _infer_pack(call: relax.Call) -> TensorType:
    rows, columns = shape_of(call.args[0])
    dtype = storage(str(call.args[0].ty.dtype))
    if attr(call, "layout") == "rows":
        return tensor([rows, columns], dtype)
    parts = attr(call, "parts")
    return tensor([parts * -(-rows // parts // LANES), columns, LANES], dtype)


def _legalize_pack(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    rows, columns = shape_of(call.args[0])
    parts, layout, out = attr(call, "parts"), attr(call, "layout"), _infer_pack(call)
    per_part = rows // parts
    tiles = -(-per_part // LANES)

    def stored(value: tirx.PrimExpr) -> tirx.PrimExpr:
        return value if str(out.dtype) == str(call.args[0].ty.dtype) else tirx.reinterpret(str(out.dtype), value)

    def pack(w: te.Tensor) -> te.Tensor:
        if layout == "rows":
            return te.compute((rows, columns), lambda i, k: stored(w[i, k]), name="store_rows")

        def element(t: tirx.Var, k: tirx.Var, lane: tirx.Var) -> tirx.PrimExpr:
            row = (t % tiles) * LANES + lane
            zero = tirx.const(0, str(out.dtype))
            return tirx.if_then_else(row < per_part, stored(w[(t // tiles) * per_part + row, k]), zero)

        return te.compute((parts * tiles, columns, LANES), element, name="pack_tile32")

    return builder.call_te(pack, call.args[0])


def _reference_pack(weight: np.ndarray, *, layout: str, parts: int) -> tuple[np.ndarray, ...]:
    weight = _stored(weight)
    return (weight if layout == "rows" else tile32.pack(weight, parts=parts),)


def random_weight(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """A weight of the given stored dtype."""
    import ml_dtypes

    return rng.standard_normal(shape, dtype=np.float32).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def _sample_pack(rng: np.random.Generator, dtype: str) -> list[Sample]:
    return [
        Sample([random_weight(rng, (70, 24), dtype)], {"layout": "tile32", "parts": 1}),
        Sample([random_weight(rng, (70, 24), dtype)], {"layout": "tile32", "parts": 2}),
        Sample([random_weight(rng, (7, 24), dtype)], {"layout": "rows", "parts": 1}),
    ]


pack_weight = dialect_op(
    "pack_weight",
    "w [N, K] -> [tiles, K, 32] (layout tile32; each of `parts` row blocks padded to whole tiles) or its stored rows",
    infer=_infer_pack,
    legalize=_legalize_pack,
    reference=_reference_pack,
    samples=_sample_pack,
    tolerance=EXACT,
    flops=lambda call: 0,
    dtypes=WEIGHT_DTYPES,
)


# --------------------------------------------------------------------------------------------------------- pad_vector
def _infer_pad(call: relax.Call) -> TensorType:
    (n,) = shape_of(call.args[0])
    parts, lanes = attr(call, "parts"), attr(call, "lanes")
    return tensor([parts * -(-n // parts // lanes) * lanes], str(call.args[0].ty.dtype))


def _legalize_pad(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    (n,) = shape_of(call.args[0])
    per_part = n // attr(call, "parts")
    lanes = attr(call, "lanes")
    padded = -(-per_part // lanes) * lanes
    dtype = str(call.args[0].ty.dtype)

    def pad(x: te.Tensor) -> te.Tensor:
        def element(i: tirx.Var) -> tirx.PrimExpr:
            inside = (i // padded) * per_part + i % padded
            return tirx.if_then_else(i % padded < per_part, x[inside], tirx.const(0, dtype))

        return te.compute((padded * (n // per_part),), element, name="pad_vector")

    return builder.call_te(pad, call.args[0])


def _reference_pad(vector: np.ndarray, *, parts: int, lanes: int) -> tuple[np.ndarray, ...]:
    blocks = vector.reshape(parts, -1)
    return (np.pad(blocks, ((0, 0), (0, -blocks.shape[1] % lanes))).reshape(-1),)


pad_vector = dialect_op(
    "pad_vector",
    "x [N] -> each of `parts` blocks padded with zeros to a multiple of `lanes`: operands of an epilogue",
    infer=_infer_pad,
    legalize=_legalize_pad,
    reference=_reference_pad,
    samples=lambda rng, dtype: [
        Sample([rng.standard_normal(70, dtype=np.float32)], {"parts": 1, "lanes": 32}),
        Sample([rng.standard_normal(70, dtype=np.float32)], {"parts": 2, "lanes": 16}),
    ],
    tolerance=EXACT,
    flops=lambda call: 0,
)
