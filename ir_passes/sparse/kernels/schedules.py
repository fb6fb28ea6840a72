"""Schedules of the sparse kernels in ordinary s_tir primitives: no primitive knows that anything is sparse."""

from __future__ import annotations

from ....schedules.compat import PrimFunc, s_tir
from ....schedules.vector import LANES
from ..lowering import decompose_inits
from ..lowering.kinds import PARALLEL, VECTORIZED, set_kinds


def schedule_rows(sch: s_tir.Schedule, width: int) -> None:
    """Row-wise spmm: rows in parallel, a row's result in registers (up to 16 vectors), entries one by one."""
    block = sch.get_sblock("spmm")
    outermost = sch.get_loops(sch.get_sblock("spmm_o0"))[0]
    if width % LANES:
        sch.parallel(outermost)
        return
    out = sch.cache_write(block, 0, "local")
    *_, entry, column = sch.get_loops(block)
    vectors = max(v for v in range(1, 17) if width // LANES % v == 0)
    tile, inner, lane = sch.split(column, [None, vectors, LANES])
    sch.reorder(tile, entry, inner, lane)
    sch.reverse_compute_at(out, tile)
    _vectorize_last(sch, out)
    sch.vectorize(lane)
    sch.unroll(inner)
    init = sch.decompose_reduction(block, entry)
    sch.unroll(sch.get_loops(init)[-2])
    sch.parallel(outermost)


def schedule_extremes(sch: s_tir.Schedule, width: int, outermost: str) -> s_tir.Schedule:
    """spmm by max or min: rows in parallel, a row's result in registers where it is up to 16 vectors wide."""
    block = sch.get_sblock("spmm")
    entry = sch.get_loops(block)[-2]
    if width % LANES == 0:
        for part in (block, sch.get_sblock("put")):
            steps, lane = sch.split(sch.get_loops(part)[-1], [None, LANES])
            sch.vectorize(lane)
            if width <= 16 * LANES:
                sch.unroll(steps)
    init = sch.decompose_reduction(block, entry)
    if LANES < width <= 16 * LANES and width % LANES == 0:
        sch.unroll(sch.get_loops(init)[-2])
    return set_kinds(sch, {outermost: PARALLEL})


def schedule_blocks(sch: s_tir.Schedule, width: int, block_rows: int, registers: int) -> None:
    """bsr spmm: block rows in parallel, a tile of rows x columns in registers over all blocks of the row."""
    block = sch.get_sblock("spmm")
    outermost = sch.get_loops(sch.get_sblock("spmm_o0"))[0]
    out = sch.cache_write(block, 0, "local")
    jo, ii, ji, k = sch.get_loops(block)[-4:]
    rows = max(r for r in (8, 4, 2, 1) if block_rows % r == 0)
    most = max(1, registers // 2 // rows)
    vectors = max(v for v in range(1, most + 1) if width // LANES % v == 0)
    row_tile, row = sch.split(ii, [None, rows])
    tile, inner, lane = sch.split(k, [None, vectors, LANES])
    sch.reorder(row_tile, tile, jo, ji, row, inner, lane)
    sch.reverse_compute_at(out, tile)
    _vectorize_last(sch, out)
    sch.vectorize(lane)
    sch.unroll(inner)
    sch.unroll(row)
    init = sch.decompose_reduction(block, jo)
    *_, first, second, last = sch.get_loops(init)
    sch.unroll(first)
    sch.unroll(second)
    sch.vectorize(last)
    sch.parallel(outermost)


def schedule_columns(sch: s_tir.Schedule) -> s_tir.Schedule:
    """spmm over formats whose entries come in any order of rows: tasks take 16 columns each, entries one by one."""
    fill = sch.get_sblock("spmm_fill")
    sch.vectorize(sch.split(sch.get_loops(fill)[-1], [None, LANES])[1])
    return set_kinds(sch, {"ko": PARALLEL, "ki": VECTORIZED})


def schedule_dots(sch: s_tir.Schedule, outermost: str) -> s_tir.Schedule:
    """sddmm: the outermost level in parallel, a dot product's lanes in one register."""
    dot = sch.get_sblock("dot")
    step, lane = sch.get_loops(dot)[-2:]
    sch.unroll(step)
    sch.vectorize(lane)
    sch.decompose_reduction(dot, step)
    return set_kinds(sch, {outermost: PARALLEL})


def schedule_groups(sch: s_tir.Schedule, out: int) -> s_tir.Schedule:
    """grouped_matmul: tasks take one or two vectors of columns each, tokens one by one."""
    row, column = sch.get_loops(sch.get_sblock("gemm_fill"))
    if out % LANES == 0:
        sch.vectorize(sch.split(column, [None, LANES])[1])
    sch.parallel(row)
    return set_kinds(sch, {"oo": PARALLEL, "oi": VECTORIZED})


def _vectorize_last(sch: s_tir.Schedule, block: object) -> None:
    """Vectorise the innermost loop of a copy, unroll what is left of it."""
    outer, lane = sch.split(sch.get_loops(block)[-1], [None, LANES])
    sch.vectorize(lane)
    sch.unroll(outer)


def finish_schedule(sch: s_tir.Schedule) -> PrimFunc:
    """The PrimFunc of a schedule, inits decomposed, sealed for Relax."""
    func = decompose_inits(sch).mod["main"].without_attr("global_symbol")
    return func.with_attrs({"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": 8})
