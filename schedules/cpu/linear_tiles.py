"""The linear kernel for many rows: register tiles over packed rows and a float32 copy of a weight tile in L2."""

from __future__ import annotations

from ..compat import PrimFunc, T
from ..layouts.rows import row_tile
from ..layouts.tile32 import TILE
from ..target import TargetProfile
from ..vector import LANES, const, fma, lanes, splat, storage, widen
from .linear_rows import LINE
from .linear_spec import HALVES, VECTOR, LinearSpec
from .reference import itemsize

BLOCK_BYTES = 256 * 1024  # of the float32 copy of a weight tile, over one block of k
TASK_ROWS = 192
LOC = 2
XPF = 32
TILES = 2


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
    T2 = 1 if parts == 2 or tiles == 1 else TILES
    groups = -(-tiles // T2)
    width = T2 * parts * HALVES
    G = width // C
    RT = TASK_ROWS // MR
    blocks = -(-K * width * LANES * 4 // BLOCK_BYTES)
    KB = -(-K // blocks)
    lines, per_line = TILE * itemsize(spec.weight_dtype) // LINE, LINE // itemsize(spec.weight_dtype)
    finish_row = spec.store()
    dtype = spec.weight_dtype

    def tile_of(group, i):
        return T.min(group * T2 + i, tiles - 1) if tiles % T2 else group * T2 + i

    def stored(group, i):
        return i * tiles + group if parts == 2 else tile_of(group, i)

    @T.inline
    def register_tile(x, wide, carry, row_tile, k0, steps, g, m0, slot):
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
            if XPF > 0:
                T.evaluate(
                    T.call_llvm_intrin("void", "llvm.prefetch.p0", T.address_of(x[row_tile, k0 + k + XPF, 0]), 0, 3, 1)
                )
            for m in T.unroll(M):
                acc0[m] = fma(wide[g, k, 0], splat(x[row_tile, k0 + k, m0 + m]), acc0[m])
                if C == 2:
                    acc1[m] = fma(wide[g, k, 1], splat(x[row_tile, k0 + k, m0 + m]), acc1[m])
        for m in T.unroll(M):
            carry[slot + m * width] = acc0[m]
            if C == 2:
                carry[slot + m * width + 1] = acc1[m]

    @T.prim_func(private=True, s_tir=True)
    def many(x_: T.handle, w_: T.handle, bias_: T.handle, residual_: T.handle, y_: T.handle):
        n = T.int64()
        row_tiles = T.int64()
        x = T.match_buffer(x_, (row_tiles, T.int64(K), T.int64(MR)), "float32", align=64)
        w = T.match_buffer(w_, [T.int64(d) for d in spec.weight_shape], storage(dtype), align=64)
        bias = T.match_buffer(bias_, (T.int64(spec.bias_size),), "float32", align=64)
        residual = T.match_buffer(residual_, (n, T.int64(N)), "float32", align=64)
        y = T.match_buffer(y_, (n, T.int64(N)), "float32", align=64)
        for task in T.parallel((row_tiles + RT - 1) // RT * groups):
            wide = T.alloc_buffer((G, KB, C), VECTOR, scope="global", align=64)
            carry = T.alloc_buffer((RT * MR * width,), VECTOR, scope="global", align=64)
            group: T.let[T.int64] = task % groups
            row_blocks: T.let[T.int64] = (row_tiles + RT - 1) // RT
            first: T.let[T.int64] = task // groups * row_tiles // row_blocks
            count: T.let[T.int64] = (task // groups + 1) * row_tiles // row_blocks - first
            for block in T.serial(T.int64(blocks)):
                steps: T.let[T.int64] = T.min(T.int64(KB), K - block * KB)
                for k in T.serial(steps):
                    for i in T.unroll(width):
                        wide[i // C, k, i % C] = widen(
                            w[stored(group, i // HALVES), block * KB + k, lanes(i % HALVES * LANES)], dtype
                        )
                share: T.let[T.int64] = (steps + count - 1) // count
                for rt in T.serial(count):
                    for i in T.serial(share):
                        for p in T.unroll(T2 * parts):
                            for line in T.unroll(lines):
                                T.evaluate(
                                    T.call_llvm_intrin(
                                        "void", "llvm.prefetch.p0",
                                        T.address_of(w[stored(group, p), block * KB + steps + rt * share + i, line * per_line]), 0, LOC, 1,
                                    )
                                )
                    for g in T.serial(T.int64(G)):
                        for half in T.serial(T.int64(MR // M)):
                            register_tile(
                                x, wide, carry, first + rt, block * KB, steps, g, half * M,
                                (rt * MR + half * M) * width + g * C,
                            )
            for r in T.serial(T.min(count * MR, n - first * MR)):
                for i in T.unroll(T2):
                    finish_row(carry, r * width + i * HALVES, bias, residual, y, first * MR + r, tile_of(group, i))

    return spec.prune(many)
