"""Matrix products of activations with weights, before and after the weights are packed for the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...schedules import catalog
from ...schedules.compat import TensorType, nn, relax
from ...schedules.layouts import tile32
from ...schedules.registry import Tolerance
from ...schedules.target import current_profile
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
from .weights import pack_weight, pad_vector, random_weight

CHAIN = Tolerance(2e-5, "one float32 fma chain over K against a float64 sum")


def silu_reference(x: np.ndarray) -> np.ndarray:
    """x * sigmoid(x) in the precision of x."""
    return x / (1 + np.exp(-x))


def epilogue_reference(y: np.ndarray, epilogue: list[str], operands: tuple[np.ndarray, ...]) -> np.ndarray:
    """Apply `bias`, `residual` and `silu_mul` (first half gate, second half up) in the given order."""
    rest = list(operands)
    for item in epilogue:
        if item == "silu_mul":
            gate, up = np.split(y, 2, axis=1)
            y = silu_reference(gate) * up
        else:
            operand = rest.pop(0)
            y = y + (operand[: y.shape[1]] if item == "bias" else operand)
    return y


# ------------------------------------------------------------------------------------------------------------- linear
def _infer_linear(call: relax.Call) -> TensorType:
    rows, (features, _) = shape_of(call.args[0])[0], shape_of(call.args[1])
    return tensor([rows, features // 2 if "silu_mul" in attr(call, "epilogue") else features])


def _legalize_linear(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    """The generic path: pack in the step. The pipeline lifts packing to compile time before it legalizes."""
    return packed(call, lambda expr: builder.emit(expr), {})


def packed(call: relax.Call, emit: Any, packed_rows: dict[relax.Var, relax.Var]) -> relax.Call:
    """The `packed_linear` of a `linear`: weight and bias packed, activations packed where the kernel wants many rows.

    `packed_rows` remembers the packed form of each x, for linears that share one.
    """
    x, w, *operands = call.args
    epilogue, rows = attr(call, "epilogue"), attr(call, "rows")
    parts = 2 if "silu_mul" in epilogue else 1
    features = shape_of(w)[0] // parts
    n = shape_of(x)[0]
    if rows == "n":
        if x not in packed_rows:
            packed_rows[x] = emit(pack_rows(x, norm_eps=-1.0, tile=catalog.row_tile(current_profile())))
        x = packed_rows[x]
    operands = [
        emit(pad_vector(o, parts=parts, lanes=tile32.TILE)) if e == "bias" else o
        for e, o in zip(epilogue, operands, strict=False)
    ]
    weight = emit(pack_weight(w, layout="tile32", parts=parts))
    kept = {name: attr(call, name) for name in ("site", "axes", "epilogue", "rows")}
    shape = relax.ShapeExpr([n])  # packed activations no longer say how many rows there are
    dtype = str(w.ty.dtype)
    return packed_linear(
        x, weight, *operands, shape, in_features=shape_of(w)[1], out_features=features, weight_dtype=dtype, **kept
    )


def _reference_linear(
    x: np.ndarray, w: np.ndarray, *operands: np.ndarray, epilogue: list[str], **_: Any
) -> tuple[np.ndarray, ...]:
    y = x.astype(np.float64) @ w.astype(np.float64).T
    return (epilogue_reference(y, epilogue, operands).astype(np.float32),)


def _operands(rng: np.random.Generator, epilogue: list[str], n: int, features: int) -> list[np.ndarray]:
    shapes = {"bias": (features,), "residual": (n, features)}
    return [rng.standard_normal(shapes[e], dtype=np.float32) for e in epilogue if e in shapes]


def _sample_linear(rng: np.random.Generator, dtype: str) -> list[Sample]:
    samples = []
    for n, rows in ((1, "1"), (3, "4"), (7, "8"), (29, "n")):
        for epilogue in ([], ["bias"], ["residual"], ["bias", "residual"], ["silu_mul"]):
            k, features = 40, 72
            x, w = rng.standard_normal((n, k), dtype=np.float32), random_weight(rng, (features, k), dtype)
            attrs = {"site": "test", "axes": ["ffn", "hidden"], "epilogue": epilogue, "rows": rows, "scheme": ""}
            samples.append(Sample([x, w, *_operands(rng, epilogue, n, features)], attrs))
    return samples


def _flops_linear(call: relax.Call) -> PrimExpr:
    features, k = shape_of(call.args[1])
    return 2 * shape_of(call.args[0])[0] * features * k


linear_op = dialect_op(
    "linear",
    "y = x @ w.T, then the epilogue in order (bias, residual, silu_mul); x [n, K], w [N, K] as the checkpoint stores it",
    infer=_infer_linear,
    legalize=_legalize_linear,
    reference=_reference_linear,
    samples=_sample_linear,
    tolerance=CHAIN,
    flops=_flops_linear,
    dtypes=WEIGHT_DTYPES,
)


def linear(x: nn.Tensor, w: nn.Tensor, bias: nn.Tensor | None = None, *, site: str, axes: tuple[str, str]) -> nn.Tensor:
    """x [n, K] times w [N, K] transposed, plus bias [N]: float32 [n, N].

    `site` names the place in the model (`layers.3.mlp.down`), `axes` the logical (output, input) axes; quantization maps,
    adapters, sharding and `explain` hang on these. A pass fills in `scheme`, how the weight is quantized ("": not at all).
    """
    operands, epilogue = ([bias], ["bias"]) if bias is not None else ([], [])
    return linear_op.emit(x, w, *operands, site=site, axes=list(axes), epilogue=epilogue, rows="n", scheme="")


# ------------------------------------------------------------------------------------------------------ packed_linear
def _infer_packed(call: relax.Call) -> TensorType:
    return tensor([call.args[-1].values[0], attr(call, "out_features")])


def _legalize_packed(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    func = make_kernel(
        "linear",
        rows=attr(call, "rows"),
        in_features=attr(call, "in_features"),
        out_features=attr(call, "out_features"),
        weight_dtype=attr(call, "weight_dtype"),
        epilogue=tuple(attr(call, "epilogue")),
    )
    return call_kernel(builder, func, "linear", list(call.args[:-1]), call.ty)


def _reference_packed(
    x: np.ndarray,
    w: np.ndarray,
    *operands: Any,
    rows: str,
    in_features: int,
    out_features: int,
    weight_dtype: str,
    epilogue: list[str],
    **_: Any,
) -> tuple[np.ndarray, ...]:
    n = int(operands[-1][0])
    if rows == "n":
        x = x.transpose(0, 2, 1).reshape(-1, in_features)[:n]
    parts = 2 if "silu_mul" in epilogue else 1
    weight = tile32.unpack(w, parts * out_features, parts=parts)
    return _reference_linear(x, widen(weight, weight_dtype), *operands[:-1], epilogue=epilogue)


def widen(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Stored weights to float32; bfloat16 arrives as uint16 bits."""
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def tiled(x: np.ndarray, tile: int) -> np.ndarray:
    """x [n, K] -> [row tiles, K, tile]; the last row is repeated to fill its tile."""
    rows = np.minimum(np.arange(-(-len(x) // tile) * tile), len(x) - 1)
    return np.ascontiguousarray(x[rows].reshape(-1, tile, x.shape[1]).transpose(0, 2, 1))


def _sample_packed(rng: np.random.Generator, dtype: str) -> list[Sample]:
    samples = []
    for sample in _sample_linear(rng, dtype):
        x, w, *operands = sample.arrays
        attrs = dict(sample.attrs)
        epilogue, n = attrs["epilogue"], len(x)
        parts = 2 if "silu_mul" in epilogue else 1
        stored = w.view(np.uint16) if dtype == "bfloat16" else w
        operands = [
            np.pad(o, (0, -len(o) % 32)) if e == "bias" else o for e, o in zip(epilogue, operands, strict=False)
        ]
        x = tiled(x, catalog.row_tile(current_profile())) if attrs["rows"] == "n" else x
        attrs |= {"in_features": w.shape[1], "out_features": len(w) // parts, "weight_dtype": dtype}
        shape = relax.ShapeExpr([n])
        samples.append(Sample([x, tile32.pack(stored, parts=parts), *operands, shape], attrs))
    return samples


packed_linear = dialect_op(
    "packed_linear",
    "linear on tile32 weights; x is row-major for few rows, packed by pack_rows for many; the last argument is the row count",
    infer=_infer_packed,
    legalize=_legalize_packed,
    reference=_reference_packed,
    samples=_sample_packed,
    tolerance=CHAIN,
    flops=lambda call: 2 * call.args[-1].values[0] * attr(call, "in_features") * shape_of(call.args[1])[0] * 32,
    dtypes=WEIGHT_DTYPES,
)


# ---------------------------------------------------------------------------------------------------------- pack_rows
def _infer_pack_rows(call: relax.Call) -> TensorType:
    rows, features = shape_of(call.args[0])
    tile = attr(call, "tile")
    return tensor([(rows + tile - 1) // tile, features, tile])


def _legalize_pack_rows(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    eps = attr(call, "norm_eps")
    features = shape_of(call.args[0])[1]
    func = make_kernel("pack_rows", features=features, norm_eps=eps if eps >= 0 else None)
    return call_kernel(builder, func, "pack_rows", list(call.args), call.ty)


def _reference_pack_rows(x: np.ndarray, *gamma: np.ndarray, norm_eps: float, tile: int) -> tuple[np.ndarray, ...]:
    if norm_eps >= 0:
        x64 = x.astype(np.float64)
        x = (x64 / np.sqrt((x64**2).mean(1, keepdims=True) + norm_eps) * gamma[0]).astype(np.float32)
    return (tiled(x, tile),)


def _sample_pack_rows(rng: np.random.Generator, dtype: str) -> list[Sample]:
    x, gamma = rng.standard_normal((29, 40), dtype=np.float32), rng.standard_normal(40, dtype=np.float32)
    tile = catalog.row_tile(current_profile())
    return [Sample([x], {"norm_eps": -1.0, "tile": tile}), Sample([x, gamma], {"norm_eps": 1e-5, "tile": tile})]


pack_rows = dialect_op(
    "pack_rows",
    "activations [n, K] -> [row tiles, K, rows of a tile], RMS-normalised on the way where norm_eps >= 0",
    infer=_infer_pack_rows,
    legalize=_legalize_pack_rows,
    reference=_reference_pack_rows,
    samples=_sample_pack_rows,
    tolerance=Tolerance(1e-6, "a float32 mean of squares"),
    flops=lambda call: 4 * shape_of(call.args[0])[0] * shape_of(call.args[0])[1],
)
