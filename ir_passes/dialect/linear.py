"""Matrix products of activations with weights, before and after the weights are packed for the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...schedules import catalog
from ...schedules import epilogue as epilogues
from ...schedules.compat import TensorType, nn, relax
from ...schedules.layouts import tile32
from ...schedules.registry import Tolerance
from ...schedules.target import current_profile
from .norms import NO_NORM, norm_of, packing_norm
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


def epilogue_reference(y: np.ndarray, epilogue: list[str], operands: tuple[np.ndarray, ...]) -> np.ndarray:
    """The epilogue of y [n, parts * N]; a bias may be padded."""
    named = dict(zip([item for item in epilogue if item in ("bias", "residual")], operands, strict=True))
    bias = named.get("bias")
    bias = None if bias is None else bias[: y.shape[1]]
    return epilogues.reference(y, epilogue, bias, named.get("residual"))


# ------------------------------------------------------------------------------------------------------------- linear
def _infer_linear(call: relax.Call) -> TensorType:
    rows, (features, _) = shape_of(call.args[0])[0], shape_of(call.args[1])
    return tensor([rows, features // epilogues.parts(attr(call, "epilogue"))])


def _legalize_linear(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    """The generic path: pack in the step. The pipeline lifts packing to compile time before it legalizes."""
    return packed(call, lambda expr: builder.emit(expr), {})


def packed(call: relax.Call, emit: Any, packed_rows: dict[relax.Var, relax.Var]) -> relax.Call:
    """The `packed_linear` of a `linear`: weight and bias packed, activations packed where the kernel wants many rows.

    `packed_rows` remembers the packed form of each x, for linears that share one.
    """
    x, w, *operands = call.args
    epilogue, rows = attr(call, "epilogue"), attr(call, "rows")
    parts = epilogues.parts(epilogue)
    features = shape_of(w)[0] // parts
    n = shape_of(x)[0]
    if rows == "n":
        if x not in packed_rows:
            packed_rows[x] = emit(pack_rows(x, **NO_NORM, tile=catalog.row_tile(current_profile())))
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


_SUMS = [[], ["bias"], ["residual"], ["bias", "residual"], ["gated:silu"]]
_FUNCTIONS = [["bias", "gelu"], ["scale:0.25", "residual"], ["gated:gelu_tanh"]]


def _sample_linear(rng: np.random.Generator, dtype: str) -> list[Sample]:
    samples = []
    for n, rows, epilogues_now in ((1, "1", _SUMS), (3, "4", _FUNCTIONS), (7, "8", _FUNCTIONS[:2]), (29, "n", _SUMS)):
        for epilogue in epilogues_now:
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
    "y = x @ w.T, then the epilogue (`schedules.epilogue`); x [n, K], w [N, K] as the checkpoint stores it",
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
    parts = epilogues.parts(epilogue)
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
        parts = epilogues.parts(epilogue)
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
    func = make_kernel("pack_rows", features=shape_of(call.args[0])[1], norm=packing_norm(call))
    return call_kernel(builder, func, "pack_rows", list(call.args), call.ty)


def _reference_pack_rows(
    x: np.ndarray, *operands: np.ndarray, norm: str, norm_eps: float, tile: int
) -> tuple[np.ndarray, ...]:
    found = norm_of(norm, norm_eps, x.shape[1], len(operands))
    return (tiled(found.reference(x, *operands) if found else x, tile),)


def _sample_pack_rows(rng: np.random.Generator, dtype: str) -> list[Sample]:
    x, weight, bias = (rng.standard_normal(size, dtype=np.float32) for size in ((29, 40), 40, 40))
    attrs = {"norm_eps": 1e-5, "tile": catalog.row_tile(current_profile())}
    return [
        Sample([x], attrs | {"norm": ""}),
        Sample([x, weight], attrs | {"norm": "rms"}),
        Sample([x, weight, bias], attrs | {"norm": "layer"}),
    ]


pack_rows = dialect_op(
    "pack_rows",
    "activations [n, K] -> [row tiles, K, rows of a tile], normalised on the way where there is a norm",
    infer=_infer_pack_rows,
    legalize=_legalize_pack_rows,
    reference=_reference_pack_rows,
    samples=_sample_pack_rows,
    tolerance=Tolerance(1e-6, "the norm's float32 sums"),
    flops=lambda call: 4 * shape_of(call.args[0])[0] * shape_of(call.args[0])[1],
)
