"""Linear kernels for one row and for few rows: the weights stream through once, the sums stay in registers."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..compat import PrimFunc, T
from ..layouts.tile32 import TILE
from ..target import TargetProfile
from ..vector import LANES, const, fma, lanes, splat, storage, widen
from .linear_spec import HALVES, VECTOR, LinearSpec
from .reference import itemsize

PREFETCH = 16  # steps over k between a prefetch and its use
LINE = 64  # bytes of a cache line


@dataclasses.dataclass(frozen=True)
class Pass:
    """The sums that one walk over k keeps in registers: rows x streams (tiles, of one or both parts) x halves of a tile."""

    rows: int
    tiles: int
    parts: int
    halves: int

    @classmethod
    def of(cls, spec: LinearSpec, rows: int, target: TargetProfile) -> Pass:
        """As much as the registers hold, of up to four streams; few tiles are spread over more tasks instead."""
        vectors = (target.vector_registers - 8) * target.vector_bits // (32 * LANES)  # that may hold sums
        rows_now = min(rows, max(vectors, 1))
        halves = HALVES if rows_now * HALVES <= vectors else 1
        streams = min(4, vectors // (rows_now * halves))
        parts = spec.parts if streams >= spec.parts else 1
        tiles = max(t for t in (1, 2, 4) if t == 1 or (t * parts <= streams and spec.tiles >= 14 * t))
        return cls(rows_now, tiles, parts, halves)


def linear_rows(spec: LinearSpec, rows: int, target: TargetProfile) -> PrimFunc:
    """x float32 [n, K], w, [bias], [residual] -> y float32 [n, N]; n is 1 where `rows` is 1.

    A task owns tiles that lie far apart: DRAM serves several far streams faster than one run, and what a stream prefetches
    past its tile is the next task's tile.
    """
    K, N, parts, tiles = spec.in_features, spec.out_features, spec.parts, spec.tiles
    dtype = spec.weight_dtype
    p = Pass.of(spec, rows, target)
    S, M, C = p.tiles, p.rows, p.halves
    streams = S * p.parts
    tasks = -(-tiles // S)
    width = parts * HALVES
    lines, per_line = TILE * itemsize(dtype) // LINE, LINE // itemsize(dtype)
    finish_row = spec.store()

    def tile_of(task: Any, s: Any) -> Any:
        return T.min(s * tasks + task, tiles - 1) if tiles % S else s * tasks + task

    def stored(task: Any, part0: Any, j: Any) -> Any:
        """The stored tile of stream j: its part, then its place among the part's tiles."""
        return (part0 + j // S) * tiles + tile_of(task, j % S)

    @T.inline
    def walk(x, w, sums, task, first, n, part0, half0, m0):
        # One array for each half: an array of 1024 bytes and more would be a workspace in memory, not registers.
        acc0 = T.alloc_buffer((streams * M,), VECTOR, scope="global")
        acc1 = T.alloc_buffer((streams * M,), VECTOR, scope="global")
        for i in T.unroll(streams * M):
            acc0[i] = const(0.0)
            acc1[i] = const(0.0)
        for k in T.serial(T.int64(K)):
            for j in T.unroll(streams):
                for line in T.unroll(lines):
                    T.evaluate(
                        T.call_llvm_intrin(
                            "void",
                            "llvm.prefetch.p0",
                            T.address_of(w[stored(task, part0, j), k + PREFETCH, line * per_line]),
                            0,
                            3,
                            1,
                        )
                    )
            for j in T.unroll(streams):
                for m in T.unroll(M):
                    acc0[j * M + m] = fma(
                        widen(w[stored(task, part0, j), k, lanes(half0 * LANES)], dtype),
                        splat(x[T.min(first + m0 + m, n - 1), k]),
                        acc0[j * M + m],
                    )
                if C == 2:
                    for m in T.unroll(M):
                        acc1[j * M + m] = fma(
                            widen(w[stored(task, part0, j), k, lanes(LANES)], dtype),
                            splat(x[T.min(first + m0 + m, n - 1), k]),
                            acc1[j * M + m],
                        )
        for j in T.unroll(streams):
            for m in T.unroll(M):
                sums[((j % S) * rows + m0 + m) * width + (part0 + j // S) * HALVES + half0] = acc0[j * M + m]
                if C == 2:
                    sums[((j % S) * rows + m0 + m) * width + (part0 + j // S) * HALVES + 1] = acc1[j * M + m]

    @T.inline
    def block(x, w, bias, residual, y, task, first, n):
        sums = T.alloc_buffer((S * rows * width,), VECTOR, scope="global")
        for part0 in T.serial(T.int64(parts // p.parts)):
            for half0 in T.serial(T.int64(HALVES // C)):
                for m0 in T.serial(T.int64(rows // M)):
                    walk(x, w, sums, task, first, n, part0 * p.parts, half0, m0 * M)
        for s in T.unroll(S):
            for m in T.serial(T.min(T.int64(rows), n - first)):
                finish_row(sums, (s * rows + m) * width, bias, residual, y, first + m, tile_of(task, s))

    if rows == 1:

        @T.prim_func(private=True, s_tir=True)
        def one(x_: T.handle, w_: T.handle, bias_: T.handle, residual_: T.handle, y_: T.handle):
            x = T.match_buffer(x_, (T.int64(1), T.int64(K)), "float32", align=64)
            w = T.match_buffer(w_, [T.int64(d) for d in spec.weight_shape], storage(dtype), align=64)
            bias = T.match_buffer(bias_, (T.int64(spec.bias_size),), "float32", align=64)
            residual = T.match_buffer(residual_, (T.int64(1), T.int64(N)), "float32", align=64)
            y = T.match_buffer(y_, (T.int64(1), T.int64(N)), "float32", align=64)
            for task in T.parallel(T.int64(tasks)):
                block(x, w, bias, residual, y, task, T.int64(0), T.int64(1))

        return spec.prune(one)

    @T.prim_func(private=True, s_tir=True)
    def few(x_: T.handle, w_: T.handle, bias_: T.handle, residual_: T.handle, y_: T.handle):
        n = T.int64()
        x = T.match_buffer(x_, (n, T.int64(K)), "float32", align=64)
        w = T.match_buffer(w_, [T.int64(d) for d in spec.weight_shape], storage(dtype), align=64)
        bias = T.match_buffer(bias_, (T.int64(spec.bias_size),), "float32", align=64)
        residual = T.match_buffer(residual_, (n, T.int64(N)), "float32", align=64)
        y = T.match_buffer(y_, (n, T.int64(N)), "float32", align=64)
        for task in T.parallel(T.int64(tasks)):
            for i in T.serial((n + rows - 1) // rows):
                block(x, w, bias, residual, y, task, i * rows, n)

    return spec.prune(few)
