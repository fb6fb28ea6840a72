"""Linear kernels for one row and for few rows: the weights stream through once, the sums stay in registers."""

from __future__ import annotations

from ..compat import PrimFunc, T
from ..layouts.tile32 import TILE
from ..target import TargetProfile
from ..vector import LANES, const, fma, lanes, splat, storage, widen
from .linear_spec import HALVES, LINE, VECTOR, LinearSpec, prefetch
from .reference import itemsize

PREFETCH = {1: 64, 4: 64, 8: 128}  # cache lines between a prefetch and its use, by rows


def passes(spec: LinearSpec, rows: int, target: TargetProfile) -> tuple[int, int, int]:
    """How many rows, parts and halves of a tile one walk over k sums up in registers: as much as they hold."""
    vectors = (target.vector_registers - 8) * target.vector_bits // (32 * LANES)
    rows_now = max(r for r in (1, 2, 4, 8) if r <= min(rows, vectors))
    halves = HALVES if rows_now * HALVES <= vectors else 1
    parts = spec.parts if rows_now * halves * spec.parts <= vectors else 1
    return rows_now, parts, halves


def linear_rows(spec: LinearSpec, rows: int, target: TargetProfile) -> PrimFunc:
    """x float32 [n, K], w, [bias], [residual] -> y float32 [n, N]; n is 1 where `rows` is 1.

    A task is one tile of each part, so that each thread reads one contiguous run of each part. A far prefetch hides the
    latency of DRAM (it beats several streams a task); past the end of a tile it fetches the next task's.
    """
    K, N, parts, tiles = spec.in_features, spec.out_features, spec.parts, spec.tiles
    dtype = spec.weight_dtype
    M, P, C = passes(spec, rows, target)
    width = parts * HALVES
    lines, per_line = TILE * itemsize(dtype) // LINE, LINE // itemsize(dtype)
    ahead = PREFETCH[rows] // lines
    finish_row = spec.store()

    @T.inline
    def walk(x, w, sums, tile, first, n, part, half, m0):
        # One array for each half: an array of 1024 bytes and more would be a workspace in memory, not registers.
        acc0 = T.alloc_buffer((P * M,), VECTOR, scope="global")
        acc1 = T.alloc_buffer((P * M,), VECTOR, scope="global")
        for i in T.unroll(P * M):
            acc0[i] = const(0.0)
            acc1[i] = const(0.0)
        for k in T.serial(T.int64(K)):
            for j in T.unroll(P):
                for line in T.unroll(lines):
                    T.evaluate(prefetch(T.address_of(w[(part + j) * tiles + tile, k + ahead, line * per_line])))
            for j in T.unroll(P):
                for m in T.unroll(M):
                    acc0[j * M + m] = fma(
                        widen(w[(part + j) * tiles + tile, k, lanes(half * LANES)], dtype),
                        splat(x[T.min(first + m0 + m, n - 1), k]),
                        acc0[j * M + m],
                    )
                if C == 2:
                    for m in T.unroll(M):
                        acc1[j * M + m] = fma(
                            widen(w[(part + j) * tiles + tile, k, lanes(LANES)], dtype),
                            splat(x[T.min(first + m0 + m, n - 1), k]),
                            acc1[j * M + m],
                        )
        for j in T.unroll(P):
            for m in T.unroll(M):
                sums[(m0 + m) * width + (part + j) * HALVES + half] = acc0[j * M + m]
                if C == 2:
                    sums[(m0 + m) * width + (part + j) * HALVES + 1] = acc1[j * M + m]

    @T.inline
    def block(x, w, bias, residual, y, tile, first, n):
        sums = T.alloc_buffer((rows * width,), VECTOR, scope="global")
        for part in T.serial(T.int64(parts // P)):
            for half in T.serial(T.int64(HALVES // C)):
                for m0 in T.serial(T.int64(rows // M)):
                    walk(x, w, sums, tile, first, n, part * P, half, m0 * M)
        for m in T.serial(T.min(T.int64(rows), n - first)):
            finish_row(sums, m * width, bias, residual, y, first + m, tile)

    if rows == 1:

        @T.prim_func(private=True, s_tir=True)
        def one(x_: T.handle, w_: T.handle, bias_: T.handle, residual_: T.handle, y_: T.handle):
            x = T.match_buffer(x_, (T.int64(1), T.int64(K)), "float32", align=64)
            w = T.match_buffer(w_, [T.int64(d) for d in spec.weight_shape], storage(dtype), align=64)
            bias = T.match_buffer(bias_, (T.int64(spec.bias_size),), "float32", align=64)
            residual = T.match_buffer(residual_, (T.int64(1), T.int64(N)), "float32", align=64)
            y = T.match_buffer(y_, (T.int64(1), T.int64(N)), "float32", align=64)
            for tile in T.parallel(T.int64(tiles)):
                block(x, w, bias, residual, y, tile, T.int64(0), T.int64(1))

        return spec.prune(one)

    @T.prim_func(private=True, s_tir=True)
    def few(x_: T.handle, w_: T.handle, bias_: T.handle, residual_: T.handle, y_: T.handle):
        n = T.int64()
        x = T.match_buffer(x_, (n, T.int64(K)), "float32", align=64)
        w = T.match_buffer(w_, [T.int64(d) for d in spec.weight_shape], storage(dtype), align=64)
        bias = T.match_buffer(bias_, (T.int64(spec.bias_size),), "float32", align=64)
        residual = T.match_buffer(residual_, (n, T.int64(N)), "float32", align=64)
        y = T.match_buffer(y_, (n, T.int64(N)), "float32", align=64)
        for tile in T.parallel(T.int64(tiles)):
            for i in T.serial((n + rows - 1) // rows):
                block(x, w, bias, residual, y, tile, i * rows, n)

    return spec.prune(few)
