"""Sparse matrix products and grouped products: the format is an attribute, its arrays are int32 tensors of symbolic extent.

One compilation serves every matrix of a format, every batch, every grouping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...schedules.compat import nn, relax, tirx
from ...schedules.registry import KERNELS, Tolerance
from ..sparse.errors import FormatError
from ..sparse.formats import MATRIX_FORMATS, grouped
from ..sparse.formats.types import check_length, check_tensor, check_types
from ..sparse.kernels.matrix import check_combine
from .registry import (
    Expr,
    Sample,
    attr,
    call_kernel,
    dialect_op,
    make_kernel,
    shape_of,
    tensor,
)

FORMAT_PARAMS = {"bsr": ("block",), "band": ("lower", "upper")}  # attributes that are compiled in


def _params(call: relax.Call, width: Any) -> dict[str, Any]:
    name = attr(call, "format")
    extra = {param: attr(call, param) for param in FORMAT_PARAMS.get(name, ())}
    return {"format": name, "width": width, **extra}


def _check_operand(call: relax.Call, operands: Sequence[Expr], rows: Any, columns: Any) -> None:
    """FormatError unless the first arguments of a call are arrays and values of a rows x columns matrix in its format."""
    name, m, n = attr(call, "format"), tirx.Var("m", "int64"), tirx.Var("n", "int64")
    params = {param: attr(call, param) for param in FORMAT_PARAMS.get(name, ())}
    for extent in (rows, columns):
        if isinstance(extent, int) and extent % params.get("block", 1):
            raise FormatError(
                f"{name} of blocks of {params['block']} for a side of {extent}",
                "a matrix is whole blocks",
                "pad the matrix, or choose a divisor",
            )
    types = [operand.ty for operand in operands]
    if not types:
        raise FormatError(f"a matrix in {name} without values", fix="pass the arrays of the format, then the values")
    check_types(MATRIX_FORMATS[name].symbolic(m, n, **params), types[:-1], types[-1], {m: rows, n: columns})


def _infer_spmm(call: relax.Call) -> Any:
    *operands, b, rows = call.args
    check_tensor("b", b.ty, 2, "float32")
    (count,) = (int(r) if isinstance(r, tirx.IntImm) else r for r in rows.values)
    _check_operand(call, operands, count, shape_of(b)[0])
    return tensor([count, shape_of(b)[1]])


def _legalize_spmm(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    func = make_kernel("spmm", combine=attr(call, "combine"), **_params(call, shape_of(call.args[-2])[1]))
    return call_kernel(builder, func, "spmm", call.args[:-1], call.ty)


def _samples(name: str, with_rows: bool) -> Any:
    def samples(rng: np.random.Generator, dtype: str) -> list[Sample]:
        found = []
        for case in KERNELS[name].cases:
            arrays = KERNELS[name].inputs(rng, **case.params, **case.sizes)
            attrs = {k: v for k, v in case.params.items() if k != "width"}
            shape = [relax.ShapeExpr([case.sizes["m"]])] if with_rows else []
            found.append(Sample([*arrays, *shape], {"combine": "sum"} | attrs if with_rows else attrs))
        return found

    return samples


spmm_op = dialect_op(
    "spmm",
    "A @ b for A in a format: arrays, values, b float32 [n, d], and the shape (rows,) of the result's rows; products of a row "
    "are added, or combined by max or min",
    infer=_infer_spmm,
    legalize=_legalize_spmm,
    reference=lambda *arrays, **attrs: KERNELS["spmm"].reference(
        *arrays[:-1], width=arrays[-2].shape[1], m=int(arrays[-1][0]), **attrs
    ),
    samples=_samples("spmm", True),
    tolerance=Tolerance(1e-5, "float32 sums in ascending order of entries"),
    flops=lambda call: 2 * _size(call.args[-3]) * shape_of(call.args[-2])[1],
)


def _size(expr: Expr) -> Any:
    size: Any = 1
    for extent in shape_of(expr):
        size = size * extent
    return size


def _infer_sddmm(call: relax.Call) -> Any:
    *operands, x, z = call.args
    for name, side in (("x", x), ("z", z)):
        check_tensor(name, side.ty, 2, "float32")
    (rows, width), (columns, other) = shape_of(x), shape_of(z)
    check_length("the width of z (that of x)", width, other)
    _check_operand(call, operands, rows, columns)
    return tensor(shape_of(operands[-1]))


def _legalize_sddmm(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    func = make_kernel("sddmm", **_params(call, shape_of(call.args[-1])[1]))
    return call_kernel(builder, func, "sddmm", call.args, call.ty)


sddmm_op = dialect_op(
    "sddmm",
    "A * (x @ z.T) on the entries of A: arrays, values, x float32 [m, d], z float32 [n, d]",
    infer=_infer_sddmm,
    legalize=_legalize_sddmm,
    reference=lambda *arrays, **attrs: KERNELS["sddmm"].reference(*arrays, width=arrays[-1].shape[1], **attrs),
    samples=_samples("sddmm", False),
    tolerance=Tolerance(1e-5, "float32 sums in 16 lanes"),
    flops=lambda call: 2 * _size(call.args[-3]) * shape_of(call.args[-1])[1],
)


def _infer_grouped(call: relax.Call) -> Any:
    *arrays, x, w = call.args
    for name, side, ndim in (("x", x, 2), ("w", w, 3)):
        check_tensor(name, side.ty, ndim, "float32")
    (tokens, features), (groups, rows, out) = shape_of(x), shape_of(w)
    check_length("the number of rows of a matrix of w (that of x's features)", features, rows)
    used, entries = tirx.Var("used", "int64"), tirx.Var("entries", "int64")
    gates = tensor([entries])  # the format's values, which this product does not have
    check_types(grouped(groups, tokens, used, entries), [a.ty for a in arrays], gates, {entries: entries})
    return tensor([tokens, out])


def _legalize_grouped(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    _, features, out = shape_of(call.args[4])
    return call_kernel(
        builder, make_kernel("grouped_matmul", features=features, out=out), "grouped_matmul", call.args, call.ty
    )


grouped_matmul_op = dialect_op(
    "grouped_matmul",
    "tokens times the matrix of their group: ids, indptr, tokens, x float32 [n, k], w float32 [groups, k, o]",
    infer=_infer_grouped,
    legalize=_legalize_grouped,
    reference=lambda *arrays: KERNELS["grouped_matmul"].reference(*arrays),
    samples=lambda rng, dtype: [
        Sample(KERNELS["grouped_matmul"].inputs(rng, **case.params, **case.sizes), {})
        for case in KERNELS["grouped_matmul"].cases
    ],
    tolerance=Tolerance(1e-5, "float32 sums over features in ascending order"),
    flops=lambda call: 2 * shape_of(call.args[2])[0] * _size(call.args[4]),
)


def _checked(format: str, params: Mapping[str, int]) -> None:
    if format not in MATRIX_FORMATS:
        raise ValueError(f"unknown format {format!r}; choose one of {', '.join(MATRIX_FORMATS)}")
    wanted = FORMAT_PARAMS.get(format, ())
    if set(params) != set(wanted):
        raise ValueError(f"format {format} takes the parameters {list(wanted)}, got {sorted(params)}")


def spmm(
    arrays: Sequence[nn.Tensor],
    values: nn.Tensor,
    b: nn.Tensor,
    *,
    rows: Any,
    format: str,
    combine: str = "sum",
    **params: int,
) -> nn.Tensor:
    """A @ b: float32 [rows, d]; with `combine` max or min, the largest or smallest product of each row's entries.

    Rows without entries are 0. ValueError for an unknown format or its parameters, SparseError for a combination that the
    format does not have, FormatError for tensors that cannot be a matrix of `rows` rows in this format, and such a `b`.
    """
    _checked(format, params)
    check_combine(format, combine)
    args = [t._expr for t in (*arrays, values, b)]
    call = spmm_op(*args, relax.ShapeExpr([rows]), format=format, combine=combine, **params)
    _infer_spmm(call)
    return nn.op.wrap_nested(call, "spmm")


def sddmm(
    arrays: Sequence[nn.Tensor], values: nn.Tensor, x: nn.Tensor, z: nn.Tensor, *, format: str, **params: int
) -> nn.Tensor:
    """Values of A * (x @ z.T), in A's format; FormatError for tensors that are not of one matrix in this format."""
    _checked(format, params)
    call = sddmm_op(*(t._expr for t in (*arrays, values, x, z)), format=format, **params)
    _infer_sddmm(call)
    return nn.op.wrap_nested(call, "sddmm")


def grouped_matmul(ids: nn.Tensor, indptr: nn.Tensor, tokens: nn.Tensor, x: nn.Tensor, w: nn.Tensor) -> nn.Tensor:
    """y[t] = sum over the groups g of token t of x[t] @ w[g]; arrays as `group_arrays` gives them, FormatError for others."""
    call = grouped_matmul_op(*(t._expr for t in (ids, indptr, tokens, x, w)))
    _infer_grouped(call)
    return nn.op.wrap_nested(call, "grouped_matmul")
