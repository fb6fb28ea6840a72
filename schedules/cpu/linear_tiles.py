"""The linear kernel for many rows: register tiles over packed rows and a float32 copy of a weight tile in L2."""

from __future__ import annotations

from ..compat import PrimFunc, T
from ..layouts.rows import row_tile
from ..target import TargetProfile
from ..vector import IN_REGISTERS, LANES, const, fma, lanes, splat, storage, widen
from .linear_spec import HALVES, LinearSpec

BLOCK_BYTES = 256 * 1024  # of the float32 copy of a weight tile, over one block of k
TASK_ROWS = 192


def linear_tiles(spec: LinearSpec, target: TargetProfile) -> PrimFunc:
    """x float32 [ceil(n / MR), K, MR] from pack_rows, w, [bias], [residual] -> y float32 [n, N].

    A task is one tile of output channels and up to 192 rows. It widens its weights once for a block of k, and carries the
    sums of all its rows from block to block in a buffer of its own.
    """
    K, N, parts, tiles = spec.in_features, spec.out_features, spec.parts, spec.tiles
    MR = row_tile(target)
    many_registers = target.vector_registers >= 32
    C = HALVES if many_registers else 1  # vectors of output channels in a register tile
    M = MR if many_registers else MR // 2  # rows in a register tile
    G = parts * HALVES // C
    RT = TASK_ROWS // MR
    width = parts * HALVES
    blocks = -(-K * width * LANES * 4 // BLOCK_BYTES)
    KB = -(-K // blocks)
    finish_row = spec.store()
    dtype = spec.weight_dtype

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
            wide = T.alloc_buffer((G, KB, C, LANES), "float32", scope="global", align=64)
            carry = T.alloc_buffer((RT * MR * width, LANES), "float32", scope="global", align=64)
            tile: T.let[T.int64] = task % tiles
            first: T.let[T.int64] = task // tiles * RT  # first row tile
            for block in T.serial(T.int64(blocks)):
                steps: T.let[T.int64] = T.min(T.int64(KB), K - block * KB)
                for k in T.serial(steps):
                    for i in T.unroll(width):
                        wide[i // C, k, i % C, lanes(0)] = widen(
                            w[i // HALVES * tiles + tile, block * KB + k, lanes(i % HALVES * LANES)], dtype
                        )
                for rt in T.serial(T.min(T.int64(RT), row_tiles - first)):
                    for g in T.serial(T.int64(G)):
                        for m0 in T.serial(T.int64(MR // M)):
                            acc = T.alloc_buffer((M, C, LANES), "float32", scope="global", annotations=IN_REGISTERS)
                            if block == 0:
                                for m in T.unroll(M):
                                    for c in T.unroll(C):
                                        acc[m, c, lanes(0)] = const(0.0)
                            else:
                                for m in T.unroll(M):
                                    for c in T.unroll(C):
                                        acc[m, c, lanes(0)] = carry[
                                            (rt * MR + m0 * M + m) * width + g * C + c, lanes(0)
                                        ]
                            for k in T.serial(steps):
                                for m in T.unroll(M):
                                    for c in T.unroll(C):
                                        acc[m, c, lanes(0)] = fma(
                                            wide[g, k, c, lanes(0)],
                                            splat(x[first + rt, block * KB + k, m0 * M + m]),
                                            acc[m, c, lanes(0)],
                                        )
                            for m in T.unroll(M):
                                for c in T.unroll(C):
                                    carry[(rt * MR + m0 * M + m) * width + g * C + c, lanes(0)] = acc[m, c, lanes(0)]
            for r in T.serial(T.min(T.int64(RT * MR), n - first * MR)):
                finish_row(carry, r * width, bias, residual, y, first * MR + r, tile)

    return spec.prune(many)
