"""Quantized linear kernels for one row and for few rows: the codes stream through once, the sums stay in registers.

A task is one tile of 16 output channels of each part, or two that lie far apart. Groups of k are summed in int32 exactly and
join the float32 sum by one fma, ascending, so that no choice made here changes a bit.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from ..compat import PrimFunc, T, tirx
from ..dot import BlockSums, bias, splats
from ..emit import Buffer, Value, evaluate, i64, let, local, parallel, prim_func, serial, store
from ..target import TargetProfile
from ..vector import LANES, Vec, const, fma, lanes, splat
from .linear_spec import prefetch
from .quant_spec import BLOCK, WORDS, QuantSpec, block_words, joined

AHEAD = 128  # cache lines between a prefetch and its use


@dataclasses.dataclass(frozen=True)
class Walk:
    """What one walk over k sums up: `streams` tiles of each part, for `rows` of a row tile.

    Within a group the sums of `at_once` rows are in registers, and after it those of the next ones.
    """

    streams: int
    rows: int
    at_once: int


def plan_walk(spec: QuantSpec, rows: int, target: TargetProfile) -> Walk:
    """As many rows as the registers hold; a second stream where few chains of dot products would wait for themselves.

    A single row waits for memory, which a far prefetch serves better than several streams do.
    """
    # Eight registers are for codes and scales; of Arm's short ones the float32 sums make room, once a group.
    free = 0 if target.vector_bits == 128 else 8
    vectors = (target.vector_registers - free) * target.vector_bits // (32 * LANES)
    limbs = max(spec.limbs, 1)
    each = (limbs + 1) * spec.parts  # int32 sums of the group, float32 sums of all groups
    rows_now = max(r for r in (1, 2, 4, 8) if r == 1 or (r <= rows and r * each <= vectors))
    few_chains = rows_now * limbs * spec.parts <= 4 and 2 * rows_now * each <= vectors
    # Two limbs of 8 rows leave no register for codes: half of the rows at a time, where groups have sums of their own.
    halves = limbs == 2 and rows_now == 8 and not spec.integer
    return Walk(2 if rows > 1 and few_chains else 1, rows_now, 4 if halves else rows_now)


class _Rows:
    """One kernel: its buffers and sizes, and the statements of a walk."""

    def __init__(self, spec: QuantSpec, rows: int, target: TargetProfile) -> None:
        self.spec, self.rows, self.target = spec, rows, target
        self.walk = plan_walk(spec, rows, target)
        self.less = bias(spec.weight.bits, target)
        self.n = tirx.Var("n", "int64") if rows > 1 else T.int64(1)
        self.row_tiles = tirx.Var("row_tiles", "int64") if rows > 1 and spec.limbs else T.int64(1)
        self.b: Mapping[str, Buffer] = (
            spec.activation_buffers(self.n, self.row_tiles, rows)
            | spec.weight_buffers()
            | spec.epilogue_buffers(self.n)
            | spec.output_buffer(self.n)
        )

    def emit(self) -> PrimFunc:
        """The kernel."""
        spec, walk = self.spec, self.walk
        tasks = -(-spec.tiles // walk.streams)
        with prim_func(list(self.b.values())) as made:
            with parallel(i64(tasks), "task") as task:
                # The last stream may be shorter; its surplus repeats the last tile, which gives the same bits again.
                at = [let(f"tile{s}", T.min(task + s * tasks, i64(spec.tiles - 1))) for s in range(walk.streams)]
                if self.rows == 1:
                    self.tiles(at, i64(0), 0)
                else:
                    with serial(T.truncdiv(self.n + (self.rows - 1), i64(self.rows)), "row_tile") as row_tile:
                        with serial(i64(self.rows // walk.rows), "part_rows") as part_rows:
                            self.tiles(at, row_tile, part_rows * walk.rows)
        return made[0]

    def tiles(self, at: Sequence[Value], row_tile: Value, first: Value) -> None:
        """All of K for the tiles `at` of each part and the rows from `first` of a row tile; then the epilogue."""
        spec, walk, b = self.spec, self.walk, self.b
        tiles = [part * spec.tiles + tile for tile in at for part in range(spec.parts)]
        limbs = spec.limbs if spec.integer else 1
        total = [
            local(f"total{i}", (limbs * walk.rows, LANES), self.sum_type(), registers=True) for i in range(len(tiles))
        ]
        zero = splat(T.int32(0)) if spec.integer else const(0.0)
        for array in total:
            for i in range(limbs * walk.rows):
                store(array, (i, lanes(0)), zero)
        if spec.groups == 1:
            self.group(tiles, i64(0), row_tile, first, total)
        else:
            with serial(i64(spec.groups), "g") as g:
                self.group(tiles, g, row_tile, first, total)
        for m in range(walk.rows):
            row = T.min(row_tile * self.rows + first + m, self.n - 1)
            x_scale = b["xs"][row_tile, 0, first + m] if spec.token_scales else None
            for s, tile in enumerate(at):
                sums = [self.summed(total, s * spec.parts + p, tiles[s * spec.parts + p], m) for p in range(spec.parts)]
                spec.store_tile(b, sums, x_scale, row, tile)

    def sum_type(self) -> str:
        """Element type of what groups add up to."""
        return "int32" if self.spec.integer else "float32"

    def summed(self, total: Sequence[Buffer], i: int, tile: Value, m: int) -> Vec:
        """float32 sum over all of K."""
        if not self.spec.integer:
            return total[i][m, lanes(0)]
        value = joined([total[i][m * self.spec.limbs + limb, lanes(0)] for limb in range(self.spec.limbs)])
        return value if self.spec.weight.two_level else fma(value, self.spec.scales(self.b, tile, 0), const(0.0))

    def group(self, tiles: Sequence[Value], g: Value, row_tile: Value, first: Value, total: Sequence[Buffer]) -> None:
        """Add the products of one group of k."""
        for m in range(0, self.walk.rows, self.walk.at_once):
            self.group_of_rows(tiles, g, row_tile, first, m, total)

    def group_of_rows(
        self, tiles: Sequence[Value], g: Value, row_tile: Value, first: Value, m0: int, total: Sequence[Buffer]
    ) -> None:
        """Add the products of one group of k for the rows from `m0` of the walk."""
        spec, count = self.spec, self.walk.at_once
        sums = total
        limbs = max(spec.limbs, 1)
        if not spec.integer or spec.weight.two_level:
            kind = "int32" if spec.limbs else "float32"
            sums = [local(f"sum{i}", (limbs * count, LANES), kind, registers=True) for i in range(len(tiles))]
        first = first + m0
        for m in range(count):
            for limb in range(limbs):
                at = m * limbs + limb
                x_sum = self.b["sums"][row_tile, g, (first + m) * limbs + limb] if spec.limbs else None
                for array, tile in zip(sums, tiles, strict=True):
                    begin = const(0.0) if x_sum is None else spec.start(self.b, tile, g, x_sum, self.less)
                    store(array, (at, lanes(0)), begin)
        whole = spec.group // BLOCK
        if whole == 1:
            self.block(tiles, g, WORDS, g, row_tile, first, sums)
        elif whole:
            with serial(i64(whole), "block") as block:
                self.block(tiles, g * whole + block, WORDS, g, row_tile, first, sums)
        if spec.group % BLOCK:
            self.block(tiles, i64(whole), spec.group % BLOCK // 4, g, row_tile, first, sums)
        if sums is not total:
            self.join(tiles, g, row_tile, first, m0, sums, total)

    def block(
        self,
        tiles: Sequence[Value],
        block: Value,
        words: int,
        g: Value,
        row_tile: Value,
        first: Value,
        sums: Sequence[Buffer],
    ) -> None:
        """Add the products of up to 32 k's to the sums of their group."""
        spec, walk, w = self.spec, self.walk, self.b["codes"]
        for tile in tiles:
            self.fetch(tile, block)
        # One step over all tiles and rows before the next: their chains of dot products hide each other's latency.
        count, limbs = walk.at_once * spec.limbs, range(spec.limbs)
        dots = [BlockSums(count, spec.weight.bits, self.target, self.less) for _ in tiles] if spec.limbs else []
        by_tile = [block_words(w, spec.weight.bits, tile, block, words) for tile in tiles]
        splatted = [
            splats(self.b["x"], (row_tile, block, first + m), limb * WORDS, words, self.target)
            for m, limb in itertools.product(range(walk.at_once), limbs)
        ]
        for step, of_step in enumerate(zip(*by_tile, strict=True)):
            for i, (word, array, tile) in enumerate(zip(of_step, sums, tiles, strict=True)):
                codes = let(f"codes{i}_{step}", word)
                if not spec.limbs:
                    self.multiply(codes, block * BLOCK + step * 4, tile, g, row_tile, first, array)
                    continue
                for at, x in enumerate(splatted):
                    dots[i].add(array, (at, lanes(0)), at, codes, x[step])
        for dot, array in zip(dots, sums, strict=False):
            for at in range(count):
                dot.finish(array, (at, lanes(0)), at)

    def multiply(
        self, codes: Vec, k: Value, tile: Value, g: Value, row_tile: Value, first: Value, array: Buffer
    ) -> None:
        """Add the products of four k's with float32 activations, one k after the other."""
        for j in range(4):
            code = T.bitwise_and(T.shift_right(codes, splat(T.int32(8 * j))), splat(T.int32(255)))
            zero = splat(T.int32(self.spec.weight.zero))
            if not self.spec.weight.symmetric:
                zero = T.cast(self.b["zeros"][tile, g, lanes(0)], "int32x16")
            weight = let("weight", T.cast(code - zero, "float32x16"))
            if self.spec.weight.minima:
                b = self.b
                weight = let("whole", fma(weight, self.spec.scales(b, tile, g), self.spec.mins(b, tile, g)))
            for m in range(self.walk.at_once):
                row = T.min(row_tile * self.rows + first + m, self.n - 1)
                store(array, (m, lanes(0)), fma(weight, splat(self.b["x"][row, k + j]), array[m, lanes(0)]))

    def join(
        self,
        tiles: Sequence[Value],
        g: Value,
        row_tile: Value,
        first: Value,
        m0: int,
        sums: Sequence[Buffer],
        total: Sequence[Buffer],
    ) -> None:
        """Add the sums of a group, times its scales, to those of all groups."""
        spec, limbs = self.spec, self.spec.limbs
        for array, wide, tile in zip(sums, total, tiles, strict=True):
            if spec.integer:
                scale = let("scale", spec.integer_scales(self.b, tile, g))
                for i in range(self.walk.at_once * limbs):
                    at = (m0 * limbs + i, lanes(0))
                    store(wide, at, wide[at] + array[i, lanes(0)] * scale)
                continue
            # Float32 activations have been multiplied with weights that have their scale and minimum already.
            whole = spec.weight.minima and not limbs
            scale = let("scale", const(1.0) if whole else spec.scales(self.b, tile, g))
            for m in range(self.walk.at_once):
                value = (
                    joined([array[m * limbs + limb, lanes(0)] for limb in range(limbs)])
                    if limbs
                    else array[m, lanes(0)]
                )
                by = scale * splat(self.b["xs"][row_tile, g, first + m]) if spec.row_scales > 1 else scale
                at = (m0 + m, lanes(0))
                store(wide, at, fma(value, by, wide[at]))
            if spec.weight.minima and limbs:
                self.join_minima(tile, g, row_tile, first, m0, wide)

    def join_minima(self, tile: Value, g: Value, row_tile: Value, first: Value, m0: int, wide: Buffer) -> None:
        """Add the minima of a group times the sums of the rows' codes."""
        spec, limbs = self.spec, self.spec.limbs
        least = let("least", spec.mins(self.b, tile, g))
        for m in range(self.walk.at_once):
            x_sums = [splat(self.b["sums"][row_tile, g, (first + m) * limbs + limb]) for limb in range(limbs)]
            by = least * splat(self.b["xs"][row_tile, g, first + m]) if spec.row_scales > 1 else least
            at = (m0 + m, lanes(0))
            store(wide, at, fma(joined(x_sums), by, wide[at]))

    def fetch(self, tile: Value, block: Value) -> None:
        """Prefetch the codes of a block some blocks ahead; past the end of a tile that is the next task's."""
        bits, w = self.spec.weight.bits, self.b["codes"]
        ahead = block + AHEAD // bits  # a block has as many lines as a code has bits
        for line in range(bits):
            index = (tile, ahead, line, 0) if bits == 4 else (tile, ahead * WORDS + line, 0)
            evaluate(prefetch(T.address_of(w[index])))


def quant_rows(spec: QuantSpec, rows: int, target: TargetProfile) -> PrimFunc:
    """Packed activations (or x float32 [n, K]), the weight, [bias], [residual] -> y float32 [n, N].

    The activations are packed in tiles of `rows` rows; n is 1 where `rows` is 1.
    """
    return _Rows(spec, rows, target).emit()
