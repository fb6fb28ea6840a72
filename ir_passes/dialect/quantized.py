"""Quantized linears: activations as codes, and matrix products of codes (`schedules/cpu/quant_spec.py` has the arithmetic)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...schedules import catalog
from ...schedules import epilogue as epilogues
from ...schedules.compat import relax
from ...schedules.cpu import quant_linear_rows
from ...schedules.cpu import quant_pack as quant_pack_kernel
from ...schedules.layouts import tile16
from ...schedules.layouts.quantized import packed_arrays
from ...schedules.layouts.scheme import scheme
from ...schedules.registry import Tolerance
from ...schedules.target import current_profile
from .norms import NO_NORM, norm_of, packing_norm
from .quantized_weights import quantize_weight
from .registry import Expr, PrimExpr, Sample, attr, call_kernel, dialect_op, make_kernel, shape_of, tensor
from .weights import pad_vector


# --------------------------------------------------------------------------------------------------------- quant_pack
def _group(call: relax.Call) -> int:
    """k's that share a scale of the weights."""
    return attr(call, "group") or shape_of(call.args[0])[1]


def _infer_quant_pack(call: relax.Call) -> relax.TupleType:
    n, features = shape_of(call.args[0])
    tile, limbs = attr(call, "tile"), 2 if attr(call, "activation") == "limbs" else 1
    tiles, groups = (n + tile - 1) // tile, features // _group(call)
    scales = groups if attr(call, "activation") == "int8-group" else 1
    return relax.TupleType(
        [
            tensor([tiles, -(-features // 32), tile, 8 * limbs], "int32"),
            tensor([tiles, scales, tile]),
            tensor([tiles, groups, tile * limbs], "int32"),
        ]
    )


def _legalize_quant_pack(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    func = make_kernel(
        "quant_pack",
        features=shape_of(call.args[0])[1],
        activation=attr(call, "activation"),
        group=attr(call, "group") or None,
        rows=attr(call, "tile"),
        factor=attr(call, "factor"),
        norm=packing_norm(call),
    )
    return call_kernel(builder, func, "quant_pack", list(call.args), list(call.ty.fields))


def _reference_quant_pack(
    x: np.ndarray,
    *operands: np.ndarray,
    activation: str,
    group: int,
    tile: int,
    factor: int,
    norm: str,
    norm_eps: float,
) -> tuple[np.ndarray, ...]:
    found = norm_of(norm, norm_eps, x.shape[1], len(operands))
    x = found.reference(x, *operands) if found else x
    return quant_pack_kernel.pack_activations(x, activation, group or None, tile, factor)


def _sample_quant_pack(rng: np.random.Generator, dtype: str) -> list[Sample]:
    samples = []
    for n, k, activation, group, tile in (
        (1, 64, "int8", 32, 1),
        (29, 76, "limbs", 0, 12),
        (7, 64, "int8-group", 32, 8),
    ):
        x = rng.standard_normal((n, k), dtype=np.float32)
        samples.append(Sample([x], {"activation": activation, "group": group, "tile": tile, "factor": -8, **NO_NORM}))
    return samples


quant_pack = dialect_op(
    "quant_pack",
    "activations [n, K] -> codes, scales, sums * factor in tiles of `tile` rows, normalised on the way where there is a norm",
    infer=_infer_quant_pack,
    legalize=_legalize_quant_pack,
    reference=_reference_quant_pack,
    samples=_sample_quant_pack,
    tolerance=Tolerance(0.0, "the codes are defined to the bit"),
    flops=lambda call: 4 * shape_of(call.args[0])[0] * shape_of(call.args[0])[1],
)


# -------------------------------------------------------------------------------------------------------- quant_linear
def _spec(*, scheme: str, in_features: int, out_features: int, epilogue: list[str], **_: Any) -> Any:
    return quant_linear_rows.quant_spec(in_features, out_features, scheme, tuple(epilogue))


def _spec_of(call: relax.Call) -> Any:
    names = ("scheme", "in_features", "out_features", "epilogue")
    return _spec(**{name: attr(call, name) for name in names})


def _legalize_quant_linear(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    shape = {name: attr(call, name) for name in ("in_features", "out_features", "scheme")}
    shape["epilogue"] = tuple(attr(call, "epilogue"))
    rows = _kernel_rows(attr(call, "rows"), attr(call, "scheme"))
    many = rows == "n"
    func = make_kernel("quant_linear_tiles", **shape) if many else make_kernel("quant_linear_rows", rows=rows, **shape)
    return call_kernel(builder, func, "quant_linear", list(call.args[:-1]), call.ty)


def _kernel_rows(rows: str, scheme_name: str) -> str:
    """The row class of the kernel: float32 activations have none for many rows, that for eight takes any number."""
    return "8" if rows == "n" and scheme(scheme_name).activation == "f32" else rows


def _tile(rows: str) -> int:
    """Rows of a tile of packed activations."""
    return catalog.row_tile(current_profile()) if rows == "n" else int(rows)


def _reference_quant_linear(*arrays: Any, rows: str, **attrs: Any) -> tuple[np.ndarray, ...]:
    y = quant_linear_rows.reference(_spec(**attrs), _tile(rows), *arrays[:-1])[0]
    return (y[: int(arrays[-1][0])],)


def _sample_quant_linear(rng: np.random.Generator, dtype: str) -> list[Sample]:
    samples = []
    for i, (k, features, name, epilogue) in enumerate(quant_linear_rows.SHAPES):
        n, rows = ((1, "1"), (3, "4"), (7, "8"), (29, "n"))[i % 4]
        attrs: dict[str, Any] = {
            "scheme": name,
            "in_features": k,
            "out_features": features,
            "epilogue": list(epilogue),
        }
        arrays: list[Any] = quant_linear_rows.random_inputs(rng, _spec(**attrs), n, _tile(rows))
        attrs |= {"rows": rows, "site": "test", "axes": ["ffn", "hidden"]}
        samples.append(Sample([*arrays, relax.ShapeExpr([n])], attrs))
    return samples


def _flops_quant_linear(call: relax.Call) -> PrimExpr:
    spec = _spec_of(call)
    return 2 * call.args[-1].values[0] * spec.in_features * spec.out_features * spec.parts * max(spec.limbs, 1)


quant_linear = dialect_op(
    "quant_linear",
    "linear of a scheme: x (codes, scales, sums of quant_pack, or float32), the packed weight, operands, the row count",
    infer=lambda call: tensor([call.args[-1].values[0], attr(call, "out_features")]),
    legalize=_legalize_quant_linear,
    reference=_reference_quant_linear,
    samples=_sample_quant_linear,
    tolerance=Tolerance(2e-6, "activation functions of polynomials; all else is exact to the bit"),
    flops=_flops_quant_linear,
)


def quantized(call: relax.Call, emit: Any, shared: dict[Any, list[Expr]]) -> relax.Call:
    """The `quant_linear` of a `linear` with a scheme: activations as codes, the weight and the bias packed.

    `shared` remembers the codes of each x, for linears that share one.
    """
    x, w, *operands = call.args
    found, epilogue, rows = scheme(attr(call, "scheme")), attr(call, "epilogue"), attr(call, "rows")
    parts = epilogues.parts(epilogue)
    (n, columns), channels = shape_of(x), shape_of(w)[0]
    activations = [x]
    if found.activation != "f32":
        spec = quant_linear_rows.quant_spec(columns, channels // parts, found.name, tuple(epilogue))
        coding = {"tile": _tile(rows)} | {name: value or 0 for name, value in spec.coding(_tile(rows)).items()}
        key = (x, *coding.values())
        if key not in shared:
            packed = emit(quant_pack(x, **NO_NORM, **coding))
            shared[key] = [emit(relax.TupleGetItem(packed, i)) for i in range(3)]
        activations = shared[key]
    weights = [
        emit(quantize_weight(w, format=found.weight.name, parts=parts, array=array))
        for array in packed_arrays(found.weight, channels, columns, parts)
    ]
    operands = [
        emit(pad_vector(o, parts=parts, lanes=tile16.TILE)) if e == "bias" else o
        for e, o in zip(epilogue, operands, strict=False)
    ]
    kept = {name: attr(call, name) for name in ("site", "axes", "epilogue", "rows", "scheme")}
    shape = relax.ShapeExpr([n])  # packed activations no longer say how many rows there are
    return quant_linear(
        *activations, *weights, *operands, shape, in_features=columns, out_features=channels // parts, **kept
    )
