"""The linear kernel for many rows: register tiles over packed rows and a weight tile in L2, widened once where it is narrow."""

from __future__ import annotations

from typing import Any

from ..compat import PrimFunc, T
from ..layouts.rows import row_tile
from ..layouts.tile32 import TILE
from ..target import TargetProfile
from ..vector import LANES, Vec, const, fma, lanes, splat, storage, widen
from .linear_spec import HALVES, LINE, VECTOR, LinearSpec, prefetch
from .reference import itemsize

BLOCK_BYTES = 256 * 1024  # of the float32 copy of a weight tile, over one block of k
TASK_ROWS = 264  # few enough that 28 tiles of output channels keep many threads busy
AHEAD = 64  # steps over k between the prefetch of packed rows and their use


def linear_tiles(spec: LinearSpec, target: TargetProfile) -> PrimFunc:
    """x float32 [ceil(n / MR), K, MR] from pack_rows, w, [bias], [residual] -> y float32 [n, N].

    A task is one tile of output channels (of each part) and up to 264 rows. It widens its weights once for a block of
    k (float32 ones are read where they lie), and carries the sums of all its rows from block to block in a buffer of its
    own. While it computes, it brings the next block's or the next task's weights into L2.
    """
    K, N, parts, tiles = spec.in_features, spec.out_features, spec.parts, spec.tiles
    dtype = spec.weight_dtype
    MR = row_tile(target)
    many_registers = target.wide_registers >= 32
    C = HALVES if many_registers else 1  # vectors of output channels in a register tile
    M = MR if many_registers else MR // 2  # rows in a register tile
    width = parts * HALVES
    G = width // C
    RT = TASK_ROWS // MR
    blocks = -(-K * width * LANES * 4 // BLOCK_BYTES)
    KB = -(-K // blocks)
    lines, per_line = TILE * itemsize(dtype) // LINE, LINE // itemsize(dtype)
    finish_row = spec.store()
    copied = dtype != "float32"

    def column(wide: Any, w: Any, tile: Any, k0: Any, g: Any, k: Any, c: int) -> Vec:
        """16 weights of one k: the vector c of the register tile's columns."""
        if copied:
            return wide[g, k, c]
        vector = g * C + c
        return w[T.truncdiv(vector, HALVES) * tiles + tile, k0 + k, lanes(T.truncmod(vector, HALVES) * LANES)]

    @T.inline
    def register_tile(x, wide, w, tile, carry, rows, k0, steps, g, m0, slot):
        # One array for each half: an array of 1024 bytes and more would be a workspace in memory, not registers.
        acc0 = T.alloc_buffer((M,), VECTOR, scope="global")
        acc1 = T.alloc_buffer((M,), VECTOR, scope="global")
        if k0 == 0:
            for m in T.unroll(M):
                acc0[m] = const(0.0)
                acc1[m] = const(0.0)
        else:
            for m in T.unroll(M):
                acc0[m] = carry[slot + m * width]
                if C == 2:
                    acc1[m] = carry[slot + m * width + 1]
        for k in T.serial(steps):
            T.evaluate(prefetch(T.address_of(x[rows, k0 + k + AHEAD, 0])))
            for m in T.unroll(M):
                acc0[m] = fma(column(wide, w, tile, k0, g, k, 0), splat(x[rows, k0 + k, m0 + m]), acc0[m])
                if C == 2:
                    acc1[m] = fma(column(wide, w, tile, k0, g, k, 1), splat(x[rows, k0 + k, m0 + m]), acc1[m])
        for m in T.unroll(M):
            carry[slot + m * width] = acc0[m]
            if C == 2:
                carry[slot + m * width + 1] = acc1[m]

    @T.inline
    def prefetch_weights(w, tile, k0, steps):
        for i in T.serial(steps):
            for part in T.unroll(parts):
                for line in T.unroll(lines):
                    T.evaluate(prefetch(T.address_of(w[part * tiles + tile, k0 + i, line * per_line]), 2))

    @T.prim_func(private=True, s_tir=True)
    def many(x_: T.handle, w_: T.handle, bias_: T.handle, residual_: T.handle, y_: T.handle):
        n = T.int64()
        row_tiles = T.int64()
        x = T.match_buffer(x_, (row_tiles, T.int64(K), T.int64(MR)), "float32", align=64)
        w = T.match_buffer(w_, [T.int64(d) for d in spec.weight_shape], storage(dtype), align=64)
        bias = T.match_buffer(bias_, (T.int64(spec.bias_size),), "float32", align=64)
        residual = T.match_buffer(residual_, (n, T.int64(N)), "float32", align=64)
        y = T.match_buffer(y_, (n, T.int64(N)), "float32", align=64)
        for task in T.parallel((row_tiles + RT - 1) // RT * tiles):
            wide = T.alloc_buffer((G, KB if copied else 1, C), VECTOR, scope="global", align=64)
            carry = T.alloc_buffer((RT * MR * width,), VECTOR, scope="global", align=64)
            # Truncated divisions of what is never negative: TVM takes most of a second to prove that of floor divisions.
            tile: T.let[T.int64] = T.truncmod(task, T.int64(tiles))
            row_blocks: T.let[T.int64] = T.truncdiv(row_tiles + (RT - 1), T.int64(RT))
            row_block: T.let[T.int64] = T.truncdiv(task, T.int64(tiles))
            first: T.let[T.int64] = T.truncdiv(row_block * row_tiles, row_blocks)  # equal blocks of row tiles
            count: T.let[T.int64] = T.truncdiv((row_block + 1) * row_tiles, row_blocks) - first
            for block in T.serial(T.int64(blocks)):
                steps: T.let[T.int64] = T.min(T.int64(KB), K - block * KB)
                share: T.let[T.int64] = T.truncdiv(steps + count - 1, count)
                if copied:
                    for k in T.serial(steps):
                        for i in T.unroll(width):
                            wide[i // C, k, i % C] = widen(
                                w[i // HALVES * tiles + tile, block * KB + k, lanes(i % HALVES * LANES)], dtype
                            )
                for rt in T.serial(count):
                    prefetch_weights(w, tile, block * KB + steps + rt * share, share)
                    for g in T.serial(T.int64(G)):
                        for part_rows in T.serial(T.int64(MR // M)):
                            register_tile(
                                x,
                                wide,
                                w,
                                tile,
                                carry,
                                first + rt,
                                block * KB,
                                steps,
                                g,
                                part_rows * M,
                                (rt * MR + part_rows * M) * width + g * C,
                            )
            for r in T.serial(T.min(count * MR, n - first * MR)):
                finish_row(carry, r * width, bias, residual, y, first * MR + r, tile)

    return spec.prune(many)
