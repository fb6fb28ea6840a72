"""spmm and sddmm as registered kernels: one compilation serves every matrix of a format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....schedules.compat import PrimFunc, s_tir, tirx
from ....schedules.registry import Case, Cost, Tolerance, kernel
from ....schedules.target import TargetProfile
from ....schedules.vector import LANES
from ..errors import SparseError
from ..formats import CSR, MATRIX_FORMATS, Operand
from ..formats.semantics import bind, entries
from ..lowering import lower
from .programs import ROW_WISE, spmm_extreme
from .programs import sddmm as sddmm_program
from .programs import spmm as spmm_program
from .schedules import (
    finish_schedule,
    schedule_blocks,
    schedule_columns,
    schedule_dots,
    schedule_extremes,
    schedule_rows,
)

BLOCK, DIAGONALS, ITEMS = 8, 3, 4  # of the operands that tests and samples make
SQUARE = 37  # sides of cases whose arrays do not tell them
COMBINES = {"sum": np.add, "max": np.maximum, "min": np.minimum}
EXTREME_FORMATS = ("balanced", "csr")  # whose rows tell how many entries they have


def _vars(names: str) -> list[tirx.Var]:
    return [tirx.Var(name, "int64") for name in names.split()]


def _check(name: str, width: int) -> None:
    if name not in MATRIX_FORMATS:
        raise SparseError(f"unknown format {name!r}", fix=f"choose one of {', '.join(MATRIX_FORMATS)}")
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
    rng: np.random.Generator,
    *,
    format: str,
    width: int,
    m: int,
    n: int,
    density: float,
    combine: str = "sum",
    **params: Any,
) -> list[np.ndarray]:
    operand = convert(format, _matrix(rng, m, n, density, format), **params)
    return [*operand.params, rng.standard_normal((n, width), np.float32)]


def convert(format: str, a: CSR, **params: int) -> Operand:
    """A matrix in a format of the library; items of `balanced` are few, so that each gets several rows."""
    extra = {"items": ITEMS} if format == "balanced" else {}
    return MATRIX_FORMATS[format].convert(a, **extra, **params)


def _stored(
    format: str, arrays: Sequence[np.ndarray], values: np.ndarray, m: int, n: int, **params: int
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Rows, columns and places of all entries that count, as the format itself says."""
    fmt = MATRIX_FORMATS[format].symbolic(m, n, **params)
    (rows, columns), places = entries(fmt, bind(fmt, arrays, values))
    return rows, columns, places


def _spmm_reference(
    *inputs: np.ndarray, format: str, width: int, combine: str = "sum", **params: Any
) -> tuple[np.ndarray]:
    *arrays, values, b = inputs
    m = params.pop("m", None) or _rows(format, arrays, values, **params)
    rows, columns, places = _stored(format, arrays, values, m, len(b), **params)
    out = np.full((m, width), {"sum": 0.0, "max": -np.inf, "min": np.inf}[combine])
    COMBINES[combine].at(out, rows, values[places][:, None].astype(np.float64) * b[columns])
    out[np.bincount(rows, minlength=m) == 0] = 0
    return (out.astype(np.float32),)


def _rows(format: str, arrays: list[np.ndarray], values: np.ndarray, **params: Any) -> int:
    """Rows of the matrix, as far as the arrays tell (the cases of formats that do not are square)."""
    if format in ("balanced", "csr"):
        return len(arrays[-2]) - 1
    if format == "bsr":
        return (len(arrays[0]) - 1) * int(params["block"])
    return len(values) if format in ("dense", "band") else SQUARE


def _case(format: str, width: int, m: int, n: int, density: float, **params: Any) -> Case:
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
        _case("balanced", 64, 50, 30, 0.2, combine="max"),
        _case("csr", 24, 50, 30, 0.2, combine="min"),
        _case("dense", 32, 10, 20, 0.7),
        _case("bsr", 48, 40, 24, 0.1, block=BLOCK),
        _case("band", 16, 30, 30, 0.9, lower=DIAGONALS, upper=DIAGONALS),
        *(_case(name, 32, SQUARE, SQUARE, 0.15) for name in ("csc", "coo", "dcsr", "ell")),
    ],
)
def spmm(*, format: str, width: int, target: TargetProfile, combine: str = "sum", **params: int) -> PrimFunc:
    """Arrays of the format int32, values float32, b float32 [n, width] -> float32 [m, width]: A @ b (Ye et al., SparseTIR).

    Sums run over the entries in the order of the format. `params` are those of the format (bsr: block; band: lower, upper).
    `combine` max or min takes the largest or smallest product of a row's entries in place of the sum (balanced and csr only);
    rows without entries are 0 with every combination. Raises SparseError for what there is no kernel for.
    """
    _check(format, width)
    check_combine(format, combine)
    m, n = _vars("m n")
    fmt = MATRIX_FORMATS[format].symbolic(m, n, **params)
    if format not in ROW_WISE:
        _needs_lanes(format, width, "spmm")
    if combine != "sum":
        sch = s_tir.Schedule(lower(spmm_extreme(fmt, m, n, width, combine)))
        return finish_schedule(schedule_extremes(sch, width, fmt.levels[0].name))
    sch = s_tir.Schedule(lower(spmm_program(fmt, m, n, width, format)))
    if format not in ROW_WISE:
        sch = schedule_columns(sch)
    elif format == "bsr" and width % LANES == 0:
        schedule_blocks(sch, width, params["block"], target.wide_registers)
    elif format in ("balanced", "csr"):
        schedule_rows(sch, width)
    else:
        sch.parallel(sch.get_loops(sch.get_sblock("spmm"))[0] if format in ("dense", "band") else _outer(sch))
    return finish_schedule(sch)


def check_combine(format: str, combine: str) -> None:
    """SparseError unless spmm over this format has this combination."""
    if combine not in COMBINES:
        raise SparseError(f"unknown combination {combine!r}", fix=f"choose one of {', '.join(COMBINES)}")
    if combine != "sum" and format not in EXTREME_FORMATS:
        raise SparseError(
            f"spmm by {combine} over {format}",
            "rows without entries are 0, and the format does not tell which rows those are",
            f"convert to one of {', '.join(EXTREME_FORMATS)}",
        )


def _outer(sch: s_tir.Schedule) -> Any:
    return sch.get_loops(sch.get_sblock("spmm_o0"))[0]


def _sddmm_inputs(
    rng: np.random.Generator, *, format: str, width: int, m: int, n: int, density: float, **params: Any
) -> list[np.ndarray]:
    operand = convert(format, _matrix(rng, m, n, density, format), **params)
    return [*operand.params, *(rng.standard_normal((side, width), np.float32) for side in (m, n))]


def _sddmm_reference(*inputs: np.ndarray, format: str, width: int, **params: Any) -> tuple[np.ndarray]:
    *arrays, values, x, z = inputs
    rows, columns, places = _stored(format, arrays, values, len(x), len(z), **params)
    out = np.zeros(values.shape, np.float64)
    out[places] = np.einsum("ed,ed->e", x[rows].astype(np.float64), z[columns]) * values[places]
    return (out.astype(np.float32),)


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
    fmt = MATRIX_FORMATS[format].symbolic(m, n, **params)
    sch = s_tir.Schedule(lower(sddmm_program(fmt, m, n, width)))
    return finish_schedule(schedule_dots(sch, fmt.levels[0].name))
