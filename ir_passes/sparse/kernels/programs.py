"""The sparse kernels as programs: each says what it computes over logical coordinates, for any format of the library."""

from __future__ import annotations

from typing import Any

from ....schedules.compat import T, ir, tirx
from ....schedules.vector import LANES
from ..axes import Value, index
from ..format import Format
from ..iteration import Fused, Iteration, Program, coords
from ..tensor import Tensor

# Formats whose rows are written by one task each; in the others, tasks take columns of the result.
ROW_WISE = ("balanced", "csr", "dense", "bsr", "band")


def spmm(fmt: Format, m: Value, n: Value, d: int, kind: str, dtype: str = "float32") -> Program:
    """C[i, k] = sum over j of A[i, j] * B[j, k], A [m, n] in a format, B and C dense with d columns."""
    a, b, c = Tensor("A", (m, n), fmt, dtype), Tensor("B", (n, d)), Tensor("C", (m, d))
    i, j = coords("i j")
    if kind in ROW_WISE:
        k = coords("k")
        step = Iteration("spmm", fmt, (i, j), {k: d}, c[i, k], _as_float(a[i, j], dtype) * b[j, k], "sum")
        return Program("spmm", (step,), (a, b, c), (*fmt.aux, a, b, c))
    # Rows may be written by several entries, in any task: tasks take columns instead.
    ko, ki = coords("ko ki")
    column = ko * LANES + ki
    order = ("ko", *(level.name for level in fmt.levels), "ki")
    value = _as_float(a[i, j], dtype) * b[j, column]
    step = Iteration("spmm", fmt, (i, j), {ko: d // LANES, ki: LANES}, c[i, column], value, "sum", order)
    return Program("spmm", (step,), (a, b, c), (*fmt.aux, a, b, c))


def spmm_extreme(fmt: Format, m: Value, n: Value, d: int, combine: str) -> Program:
    """C[i, k] = the max or min over the entries (i, j) of A[i, j] * B[j, k], 0 in rows without entries.

    For formats whose last two levels are the rows and a row's entries (balanced, csr).
    """
    a, b, c = Tensor("A", (m, n), fmt), Tensor("B", (n, d)), Tensor("C", (m, d))
    best = Tensor("best", (d,), row_local=True)
    i, j = coords("i j")
    k, ko = coords("k ko")
    step = Iteration("spmm", fmt, (i, j), {k: d}, best[k], a[i, j] * b[j, k], combine)
    found = tirx.Select(fmt.levels[-1].extent(i) > 0, best[ko], T.float32(0))
    put = Iteration("put", fmt, (i, j), {ko: d}, c[i, ko], found, depth=len(fmt.levels) - 1)
    fused = Fused(len(fmt.levels) - 1, (step, put))
    return Program("spmm", (fused,), (a, b, c, best), (*fmt.aux, a, b, c))


def _as_float(value: Any, dtype: str) -> Any:
    return value if dtype == "float32" else T.cast(value, "float32")


def sddmm(fmt: Format, m: Value, n: Value, d: int) -> Program:
    """Y[i, j] = A[i, j] * sum over k of X[i, k] * Z[j, k] for the entries of A; A and Y [m, n] in one format.

    The sum runs in 16 lanes (k mod 16), which are added by one fixed tree at the end.
    """
    a, y = Tensor("A", (m, n), fmt), Tensor("Y", (m, n), fmt)
    x, z = Tensor("X", (m, d)), Tensor("Z", (n, d))
    partial = Tensor("partial", (LANES,), row_local=True)
    i, j = coords("i j")
    c, lane = coords("c lane")
    names = tuple(level.name for level in fmt.levels)
    column = c * LANES + lane
    dot = Iteration(
        "dot",
        fmt,
        (i, j),
        {c: d // LANES, lane: LANES},
        partial[lane],
        x[i, column] * z[j, column],
        "sum",
        (*names, "c", "lane"),
        masked=False,
    )
    total = sum_lanes(partial.logical[tirx.Ramp(index(0), index(1), LANES)])
    put = Iteration("put", fmt, (i, j), {}, y[i, j], a[i, j] * total)
    tensors = (a, x, z, y, partial)
    return Program("sddmm", (Fused(len(fmt.levels), (dot, put)),), tensors, (*fmt.aux, a, x, z, y))


def sum_lanes(x: Any) -> Any:
    """The sum of 16 lanes: halves twice, then four in order."""
    for width in (8, 4):
        low, high = (
            ir.Call(ir.Op.get(f"tirx.vector{half}"), [x], ret_ty=f"float32x{width}") for half in ("low", "high")
        )
        x = low + high
    return T.call_llvm_pure_intrin("float32", "llvm.vector.reduce.fadd", T.float32(0), x)


def grouped_matmul(fmt: Format, tokens: Value, groups: Value, features: int, out: int) -> Program:
    """Y[t] = sum of X[t] @ W[g] over the groups g of token t; tokens without a group give 0 (Punica's SGMV, MoE)."""
    x, w, y = Tensor("X", (tokens, features)), Tensor("W", (groups, features, out)), Tensor("Y", (tokens, out))
    e, t = coords("e t")
    oo, k, oi = coords("oo k oi")
    # Two vectors: a sum is a chain of multiply-adds, and two chains hide each other's latency.
    lanes = next(n for n in (2 * LANES, LANES, out) if out % n == 0)
    column = oo * lanes + oi
    # Tasks take columns: a token may be in several groups, and its sums must not race.
    order = ("oo", "E", "T", "k", "oi")
    free = {oo: out // lanes, k: features, oi: lanes}
    step = Iteration("gemm", fmt, (e, t), free, y[t, column], x[t, k] * w[e, k, column], "sum", order)
    return Program("grouped_matmul", (step,), (x, w, y), (*fmt.aux, x, w, y))
