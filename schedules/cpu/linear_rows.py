"""Linear kernels for one row and for few rows: the weights stream through once, the sums stay in registers."""

from __future__ import annotations

from ..compat import PrimFunc, T
from ..layouts.tile32 import TILE
from ..target import TargetProfile
from ..vector import IN_REGISTERS, LANES, const, fma, lanes, splat, storage, widen
from .linear_spec import HALVES, LinearSpec

PREFETCH = 16  # steps over k between a prefetch and its use


def streams(spec: LinearSpec, rows: int, target: TargetProfile) -> int:
    """Tiles that one task reads side by side."""
    for count in (4, 2):
        sums = count * spec.parts * rows * HALVES * LANES * 32 // target.vector_bits
        if sums <= target.vector_registers - 8 and spec.tiles >= 8 * count:
            return count
    return 1


def linear_rows(spec: LinearSpec, rows: int, target: TargetProfile) -> PrimFunc:
    """x float32 [n, K], w, [bias], [residual] -> y float32 [n, N]; n is 1 where `rows` is 1.

    A task owns tiles that lie far apart: DRAM serves several far streams faster than one run, and what a stream prefetches
    past its tile is the next task's tile.
    """
    K, N, parts, tiles = spec.in_features, spec.out_features, spec.parts, spec.tiles
    S = streams(spec, rows, target)
    tasks = -(-tiles // S)
    per_line = 64 * 8 // {"float32": 32}.get(spec.weight_dtype, 16)
    finish_row = spec.store()
    width = parts * HALVES

    def tile_of(task, s):
        return T.min(s * tasks + task, tiles - 1) if tiles % S else s * tasks + task

    @T.inline
    def sums(x, w, bias, residual, y, task, first, n):
        acc = T.alloc_buffer((S * rows * width, LANES), "float32", scope="global", annotations=IN_REGISTERS)
        for i in T.unroll(S * rows * width):
            acc[i, lanes(0)] = const(0.0)
        for k in T.serial(T.int64(K)):
            for s in T.unroll(S):
                for p in T.unroll(parts):
                    for line in T.unroll(TILE // per_line):
                        T.evaluate(
                            T.call_llvm_intrin(
                                "void", "llvm.prefetch.p0",
                                T.address_of(w[p * tiles + tile_of(task, s), k + PREFETCH, line * per_line]), 0, 3, 1,
                            )
                        )
            for s in T.unroll(S):
                for i in T.unroll(width):
                    for m in T.unroll(rows):
                        acc[(s * rows + m) * width + i, lanes(0)] = fma(
                            widen(w[i // HALVES * tiles + tile_of(task, s), k, lanes(i % HALVES * LANES)], spec.weight_dtype),
                            splat(x[T.min(first + m, n - 1), k]),
                            acc[(s * rows + m) * width + i, lanes(0)],
                        )
        for s in T.unroll(S):
            for m in T.unroll(rows):
                finish_row(acc, (s * rows + m) * width, bias, residual, y, T.min(first + m, n - 1), tile_of(task, s))

    if rows == 1:

        @T.prim_func(private=True, s_tir=True)
        def one(x_: T.handle, w_: T.handle, bias_: T.handle, residual_: T.handle, y_: T.handle):
            x = T.match_buffer(x_, (T.int64(1), T.int64(K)), "float32", align=64)
            w = T.match_buffer(w_, [T.int64(d) for d in spec.weight_shape], storage(spec.weight_dtype), align=64)
            bias = T.match_buffer(bias_, (T.int64(spec.bias_size),), "float32", align=64)
            residual = T.match_buffer(residual_, (T.int64(1), T.int64(N)), "float32", align=64)
            y = T.match_buffer(y_, (T.int64(1), T.int64(N)), "float32", align=64)
            for task in T.parallel(T.int64(tasks)):
                sums(x, w, bias, residual, y, task, T.int64(0), T.int64(1))

        return spec.prune(one)

    @T.prim_func(private=True, s_tir=True)
    def few(x_: T.handle, w_: T.handle, bias_: T.handle, residual_: T.handle, y_: T.handle):
        n = T.int64()
        x = T.match_buffer(x_, (n, T.int64(K)), "float32", align=64)
        w = T.match_buffer(w_, [T.int64(d) for d in spec.weight_shape], storage(spec.weight_dtype), align=64)
        bias = T.match_buffer(bias_, (T.int64(spec.bias_size),), "float32", align=64)
        residual = T.match_buffer(residual_, (n, T.int64(N)), "float32", align=64)
        y = T.match_buffer(y_, (n, T.int64(N)), "float32", align=64)
        for task in T.parallel(T.int64(tasks)):
            for block in T.serial((n + rows - 1) // rows):
                sums(x, w, bias, residual, y, task, block * rows, n)

    return spec.prune(few)
