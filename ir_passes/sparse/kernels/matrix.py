"""spmm and sddmm as registered kernels: one compilation serves every matrix of a format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ....schedules.compat import PrimFunc, s_tir, tirx
from ....schedules.registry import Case, Cost, Tolerance, kernel
from ....schedules.target import TargetProfile
from ....schedules.vector import LANES
from ..axes import Value
from ..errors import SparseError
from ..format import Format
from ..library import (
    CSR,
    Operand,
    balanced,
    band,
    bsr,
    coo,
    csc,
    csr,
    dcsr,
    dense,
    ell,
    to_balanced,
    to_band,
    to_bsr,
    to_coo,
    to_csc,
    to_csr,
    to_dcsr,
    to_dense_format,
    to_ell,
)
from ..lowering import lower
from .programs import ROW_WISE
from .programs import sddmm as sddmm_program
from .programs import spmm as spmm_program
from .schedules import finish_schedule, schedule_blocks, schedule_columns, schedule_dots, schedule_rows

BLOCK, DIAGONALS, ITEMS = 8, 3, 4  # of the operands that tests and samples make


def _vars(names: str) -> list[tirx.Var]:
    return [tirx.Var(name, "int64") for name in names.split()]


def _bounds_less_one() -> Value:
    return tirx.Var("bounds", "int64") - 1


FORMATS: dict[str, tuple[Callable[..., Format], Callable[..., Operand]]] = {
    "balanced": (
        lambda m, n, **_: balanced(m, n, *_vars("nnz"), _bounds_less_one()),
        lambda a, **_: to_balanced(a, ITEMS),
    ),
    "csr": (lambda m, n, **_: csr(m, n, *_vars("nnz")), lambda a, **_: to_csr(a)),
    "csc": (lambda m, n, **_: csc(m, n, *_vars("nnz")), lambda a, **_: to_csc(a)),
    "coo": (lambda m, n, **_: coo(m, n, *_vars("nnz")), lambda a, **_: to_coo(a)),
    "dcsr": (lambda m, n, **_: dcsr(m, n, *_vars("rows nnz")), lambda a, **_: to_dcsr(a)),
    "ell": (lambda m, n, **_: ell(m, n, *_vars("rows width")), lambda a, **_: to_ell(a)),
    "dense": (lambda m, n, **_: dense(m, n), lambda a, **_: to_dense_format(a.to_dense())),
    "bsr": (lambda m, n, block, **_: bsr(m, n, *_vars("blocks"), block), lambda a, block, **_: to_bsr(a, block)),
    "band": (
        lambda m, n, lower, upper, **_: band(m, n, lower, upper),
        lambda a, lower, upper, **_: to_band(a, lower, upper),
    ),
}
"""By name: the format with symbolic extents, and the conversion of a matrix; both take the format's own parameters."""


def _check(name: str, width: int) -> None:
    if name not in FORMATS:
        raise SparseError(f"unknown format {name!r}", fix=f"choose one of {', '.join(FORMATS)}")
    if width < 1:
        raise SparseError(f"width={width} columns", fix="give at least 1")


def _needs_lanes(name: str, width: int, what: str) -> None:
    if width % LANES:
        raise SparseError(
            f"{what} over {name} with {width} columns",
            f"its columns are dealt out in vectors of {LANES}",
            f"pad to a multiple of {LANES}" + ("" if what == "sddmm" else f", or use one of {', '.join(ROW_WISE)}"),
        )


def _matrix(rng: np.random.Generator, m: int, n: int, density: float, fmt: str) -> CSR:
    keep = rng.random((m, n)) < density
    keep[m // 3] = False  # an empty row
    if fmt == "band":
        keep &= np.abs(np.arange(m)[:, None] - np.arange(n)) <= DIAGONALS
    return CSR.from_dense((rng.standard_normal((m, n)) * keep).astype(np.float32))


def _spmm_inputs(
    rng: np.random.Generator, *, format: str, width: int, m: int, n: int, density: float, **params: Any
) -> list[np.ndarray]:
    operand = FORMATS[format][1](_matrix(rng, m, n, density, format), **params)
    return [*operand.params, rng.standard_normal((n, width), np.float32)]


def entries(format: str, arrays: list[np.ndarray], values: np.ndarray, m: int, **params: Any) -> tuple[np.ndarray, ...]:
    """(row, column, value) of all stored entries, padding included: what the references compute with."""
    if format in ("balanced", "csr"):
        indptr, columns = arrays[-2:]
        return np.repeat(np.arange(m), np.diff(indptr)), columns, values
    if format == "csc":
        indptr, rows = arrays
        return rows, np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)), values
    if format == "coo":
        return arrays[0], arrays[1], values.ravel()
    if format == "dcsr":
        rows, indptr, columns = arrays
        return np.repeat(rows, np.diff(indptr)), columns, values
    if format == "ell":
        return np.repeat(arrays[0], values.shape[1]), arrays[1], values.ravel()
    if format == "dense":
        rows, columns = np.indices(values.shape)
        return rows.ravel(), columns.ravel(), values.ravel()
    if format == "band":
        rows, slot = np.indices(values.shape)
        return rows.ravel(), (rows + slot - params["lower"]).ravel(), values.ravel()
    indptr, blocks = arrays
    row, column = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)), blocks
    inner = np.arange(params["block"])
    rows = row[:, None, None] * len(inner) + inner[:, None]
    columns = column[:, None, None] * len(inner) + inner
    return (*tuple(np.broadcast_to(a, values.shape).ravel() for a in (rows, columns)), values.ravel())


def _spmm_reference(*inputs: np.ndarray, format: str, width: int, **params: Any) -> tuple[np.ndarray]:
    *arrays, values, b = inputs
    m = params.pop("m", None) or _rows(format, arrays, values, **params)
    rows, columns, data = entries(format, arrays, values, m, **params)
    inside = (columns >= 0) & (columns < len(b))
    out = np.zeros((m, width), np.float64)
    np.add.at(out, rows[inside], data[inside, None].astype(np.float64) * b[columns[inside]])
    return (out.astype(np.float32),)


def _rows(format: str, arrays: list[np.ndarray], values: np.ndarray, **params: Any) -> int:
    """Rows of the matrix, as far as the arrays tell (the cases of formats that do not are square)."""
    if format in ("balanced", "csr"):
        return len(arrays[-2]) - 1
    if format == "bsr":
        return (len(arrays[0]) - 1) * params["block"]
    if format in ("dense", "band"):
        return len(values)
    return SQUARE


SQUARE = 37


def _case(format: str, width: int, m: int, n: int, density: float, **params: int) -> Case:
    return Case({"format": format, "width": width, **params}, {"m": m, "n": n, "density": density})


def _spmm_cost(*, format: str, width: int, m: int, n: int, density: float, **_: Any) -> Cost:
    nnz = int(m * n * density)
    return Cost(bytes=8 * nnz + 4 * width * (m + n), flops=2 * nnz * width)


@kernel(
    reference=_spmm_reference,
    inputs=_spmm_inputs,
    cost=_spmm_cost,
    tolerance=Tolerance(1e-5, "float32 sums in ascending order of entries"),
    cases=[
        _case("balanced", 64, 50, 30, 0.2),
        _case("balanced", 24, 20, 30, 0.2),
        _case("csr", 272, 50, 30, 0.2),
        _case("dense", 32, 10, 20, 0.7),
        _case("bsr", 48, 40, 24, 0.1, block=BLOCK),
        _case("band", 16, 30, 30, 0.9, lower=DIAGONALS, upper=DIAGONALS),
        *(_case(name, 32, SQUARE, SQUARE, 0.15) for name in ("csc", "coo", "dcsr", "ell")),
    ],
)
def spmm(*, format: str, width: int, target: TargetProfile, **params: int) -> PrimFunc:
    """Arrays of the format int32, values float32, b float32 [n, width] -> float32 [m, width]: A @ b (Ye et al., SparseTIR).

    Sums run over the entries in the order of the format. `params` are those of the format (bsr: block; band: lower, upper).
    """
    _check(format, width)
    m, n = _vars("m n")
    fmt = FORMATS[format][0](m, n, **params)
    if format not in ROW_WISE:
        _needs_lanes(format, width, "spmm")
    sch = s_tir.Schedule(lower(spmm_program(fmt, m, n, width, format)))
    if format not in ROW_WISE:
        sch = schedule_columns(sch)
    elif format == "bsr" and width % LANES == 0:
        schedule_blocks(sch, width, params["block"], target.vector_registers * target.vector_bits // 512)
    elif format in ("balanced", "csr"):
        schedule_rows(sch, width)
    else:
        sch.parallel(sch.get_loops(sch.get_sblock("spmm"))[0] if format in ("dense", "band") else _outer(sch))
    return finish_schedule(sch)


def _outer(sch: s_tir.Schedule) -> Any:
    return sch.get_loops(sch.get_sblock("spmm_o0"))[0]


def _sddmm_inputs(
    rng: np.random.Generator, *, format: str, width: int, m: int, n: int, density: float, **params: Any
) -> list[np.ndarray]:
    operand = FORMATS[format][1](_matrix(rng, m, n, density, format), **params)
    return [*operand.params, *(rng.standard_normal((side, width), np.float32) for side in (m, n))]


def _sddmm_reference(*inputs: np.ndarray, format: str, width: int, **params: Any) -> tuple[np.ndarray]:
    *arrays, values, x, z = inputs
    rows, columns, data = entries(format, arrays, values, len(x), **params)
    inside = (columns >= 0) & (columns < len(z))
    out = np.zeros(values.size, np.float64)
    out[inside] = np.einsum("ed,ed->e", x[rows[inside]].astype(np.float64), z[columns[inside]]) * data[inside]
    return (out.astype(np.float32).reshape(values.shape),)


@kernel(
    reference=_sddmm_reference,
    inputs=_sddmm_inputs,
    cost=lambda *, width, m, n, density, **_: Cost(
        bytes=12 * int(m * n * density) + 4 * width * (m + n), flops=2 * int(m * n * density) * width
    ),
    tolerance=Tolerance(1e-5, "float32 sums in 16 lanes"),
    cases=[
        _case("balanced", 64, 50, 30, 0.2),
        _case("csr", 16, 50, 30, 0.2),
        _case("coo", 32, 20, 30, 0.2),
        _case("dcsr", 32, 20, 30, 0.2),
        _case("ell", 32, 20, 30, 0.2),
        _case("bsr", 48, 40, 24, 0.1, block=BLOCK),
    ],
)
def sddmm(*, format: str, width: int, target: TargetProfile, **params: int) -> PrimFunc:
    """Arrays int32, values float32, x float32 [m, width], z float32 [n, width] -> values: A * (x @ z.T) on A's entries."""
    _check(format, width)
    _needs_lanes(format, width, "sddmm")
    m, n = _vars("m n")
    fmt = FORMATS[format][0](m, n, **params)
    sch = s_tir.Schedule(lower(sddmm_program(fmt, m, n, width)))
    return finish_schedule(schedule_dots(sch, fmt.levels[0].name))
