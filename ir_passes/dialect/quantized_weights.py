"""Quantized weights: their encoding, which happens at compile time, and embedding tables of codes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...schedules.compat import TensorType, relax
from ...schedules.cpu.quant_linear_rows import random_matrix
from ...schedules.layouts.quantized import QuantizedMatrix, packed_arrays
from ...schedules.layouts.scheme import weight_format
from ...schedules.registry import Tolerance
from .registry import Expr, Sample, attr, call_kernel, compile_time_op, dialect_op, make_kernel, shape_of, tensor


# ----------------------------------------------------------------------------------------------------- quantize_weight
def _infer_quantize(call: relax.Call) -> TensorType:
    rows, columns = shape_of(call.args[0])
    shape, dtype = packed_arrays(weight_format(attr(call, "format")), rows, columns, attr(call, "parts"))[
        attr(call, "array")
    ]
    return tensor(shape, dtype.name)


quantize_weight = compile_time_op(
    "quantize_weight",
    "w [N, K] -> one of its packed arrays (codes, scales, zeros, mins, channels) in a format such as w4-g32, in `parts` row blocks",
    infer=_infer_quantize,
)


# ----------------------------------------------------------------------------------------------------- quant_embedding
def _legalize_embedding(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    func = make_kernel("quant_embedding", features=attr(call, "hidden"), format=attr(call, "format"))
    return call_kernel(builder, func, "quant_embedding", list(call.args), call.ty)


def _reference_embedding(ids: np.ndarray, *arrays: np.ndarray, format: str, **_: Any) -> tuple[np.ndarray, ...]:
    fmt = weight_format(format)
    named = dict(zip(packed_arrays(fmt, 16, _columns(arrays[0])), arrays, strict=True))
    return (QuantizedMatrix.unpack(fmt, named, 16 * len(arrays[0])).dequantize()[ids],)


def _columns(codes: np.ndarray) -> int:
    """Columns of a packed table: 8 bits have three dimensions."""
    return codes.shape[1] * (4 if codes.ndim == 3 else 32)


def _sample_embedding(rng: np.random.Generator, dtype: str) -> list[Sample]:
    samples = []
    for name, features in (("w8-pc", 52), ("w4-g32-2l-asym", 96), ("w8-g32-asym", 64), ("w4-g32-min", 64)):
        ids = rng.integers(0, 70, 9).astype(np.int32)
        arrays = random_matrix(rng, weight_format(name), 70, features).pack().values()
        samples.append(Sample([ids, *arrays], {"hidden": features, "format": name, "site": "test"}))
    return samples


quant_embedding_op = dialect_op(
    "quant_embedding",
    "rows of a quantized table by token id, as float32",
    infer=lambda call: tensor([shape_of(call.args[0])[0], attr(call, "hidden")]),
    legalize=_legalize_embedding,
    reference=_reference_embedding,
    samples=_sample_embedding,
    tolerance=Tolerance(0.0, "codes times scales, each product rounded once"),
    flops=lambda call: 2 * shape_of(call.args[0])[0] * attr(call, "hidden"),
    bytes=lambda call: shape_of(call.args[0])[0] * attr(call, "hidden") * 6,
)


def quantized_embedding(call: relax.Call, emit: Any, format: str) -> relax.Call:
    """The `quant_embedding` of an `embedding` whose table gets a weight format."""
    ids, table = call.args
    rows, columns = shape_of(table)
    arrays = [
        emit(quantize_weight(table, format=format, parts=1, array=array))
        for array in packed_arrays(weight_format(format), rows, columns)
    ]
    return quant_embedding_op(ids, *arrays, hidden=columns, format=format, site=attr(call, "site"))
