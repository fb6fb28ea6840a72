"""The sizes of quant_tiles.py and its inner loops: one block of K for a tile of rows and columns whose sums fill the registers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from ..compat import T
from ..dot import BlockSums, splats
from ..emit import Buffer, Value, evaluate, i64, let, local, serial, store, when
from ..layouts.rows import ROW_TILE
from ..matrix_dot import multiplies_matrices
from ..target import TargetProfile
from ..vector import LANES, fma, splat
from .linear_spec import LINE, prefetch
from .quant_spec import BLOCK, WORDS, QuantSpec, joined
from .quant_tiles_weights import INTEGERS, Weights

TASK_ROWS = 264  # few enough that 28 pairs of column tiles keep many threads busy
BLOCK_BYTES = 128 * 1024  # of a task's weight codes, one byte each, over one block of K: they stay in L2
AHEAD = 4  # blocks of 32 k's between the prefetch of packed rows and their use


class Shape:
    """Sizes of the register tile, the task and the blocks of K."""

    def __init__(self, spec: QuantSpec, target: TargetProfile) -> None:
        self.spec, self.target = spec, target
        many, short = target.wide_registers >= 32, target.vector_bits == 128
        self.columns = 2 if many else 1  # column tiles in a register tile
        # Sums that registers hold: without VNNI widened operands, or products that wait in 16 bits, want half of them.
        held = 4 if short else (24 if many else 8) // (1 if target.dots else 2)
        # Sums of one row and column tile. Where a vector takes four registers, float32 sums make room for those of a group.
        each = spec.limbs + (0 if spec.integer or short else 1)
        self.matrix = multiplies_matrices(target)
        fitting = (2, 4, 6, 12) if self.matrix else (1, 2, 3, 4, 6, 12)
        self.rows = max(r for r in fitting if r == fitting[0] or r * each * self.columns <= held)
        self.width = max(self.columns, spec.parts)  # column tiles of a task, equally many of each part
        self.per_part = self.width // spec.parts
        self.column_tasks = -(-spec.tiles // self.per_part)
        # K in blocks of whole groups, counted in blocks of 32; the last k's of int8 codes may be fewer.
        self.whole, self.tail = spec.in_features // BLOCK, spec.in_features % BLOCK // 4
        self.group = 1 if spec.integer else spec.group // BLOCK
        most = max(BLOCK_BYTES // (self.width * LANES * BLOCK * self.group), 1)
        groups = -(-self.whole // self.group)
        each_block = max(-(-groups // max(-(-groups // most), 1)), 1)  # equal blocks
        self.block, self.count = each_block * self.group, max(-(-groups // each_block), 1)

    def row_blocks(self, row_tiles: Value) -> Value:
        """Tasks over the rows."""
        return T.truncdiv(row_tiles + (TASK_ROWS // ROW_TILE - 1), i64(TASK_ROWS // ROW_TILE))


class RegisterTile:
    """`shape.rows` rows from the row `m0` of a tile of packed rows, and column tiles (place in the task, tile of the weight)."""

    def __init__(
        self,
        shape: Shape,
        b: Mapping[str, Buffer],
        weights: Weights,
        row_tile: Value,
        m0: Value,
        columns: Sequence[tuple[int, Value]],
    ) -> None:
        self.shape, self.spec, self.b, self.weights = shape, shape.spec, b, weights
        self.row_tile, self.m0, self.columns = row_tile, m0, columns

    def add(self, sums: Sequence[Buffer], first: Value, blocks: Value, turn: Value) -> None:
        """Add `blocks` blocks of 32 k's from the first: to int32 sums over all of K, or group by group to float32 sums.

        This is the task's register tile number `turn` over these blocks. With each step it brings a cache line of the codes that
        come next into L2: of the next block of K, or after the last of the next task.
        """
        shape = self.shape
        after, skip = let("after", first + blocks), (shape.per_part - 1) * shape.whole
        self.next = T.Select(after < shape.whole, after, after + skip) if skip else after
        self.next_lines, self.next_step = blocks * self.spec.weight.bits, turn * blocks
        if not self.spec.integer:
            with serial(T.truncdiv(blocks, i64(shape.group)), "g") as g:
                self.group(sums, first, g)
            return
        self.begin(sums)
        with serial(blocks, "block_step") as step:
            self.dots(sums, first, step)
        self.end(sums)
        if shape.tail:
            with when(first + blocks == shape.whole):
                self.word_dots(sums, first, blocks, shape.tail)

    def group(self, sums: Sequence[Buffer], first: Value, g: Value) -> None:
        """One group of k: exact integer sums, then one fma."""
        shape, spec, limbs = self.shape, self.spec, self.spec.limbs
        group = let("group", T.truncdiv(first, i64(shape.group)) + g)
        exact = [local(f"exact{c}", (shape.rows * limbs,), INTEGERS) for c in range(shape.columns)]
        for at in range(shape.rows * limbs):
            x_sum = self.b["sums"][self.row_tile, group, self.m0 * limbs + at]
            for array, (_, tile) in zip(exact, self.columns, strict=True):
                store(array, at, spec.start(self.b, tile, group, x_sum, self.weights.less))
        self.begin(exact)
        if shape.group == 1:
            self.dots(exact, first, g)
        else:
            with serial(i64(shape.group), "block_step") as step:
                self.dots(exact, first, g * shape.group + step)
        self.end(exact)
        for total, array, (column, _) in zip(sums, exact, self.columns, strict=True):
            scale = self.weights.scale(column, g)
            for m in range(shape.rows):
                by = scale * splat(self.b["xs"][self.row_tile, group, self.m0 + m]) if spec.row_scales > 1 else scale
                value = joined([array[m * limbs + limb] for limb in range(limbs)])
                store(total, m, fma(value, by, total[m]))
        if spec.weight.minima:
            self.minima(sums, group, g)

    def minima(self, sums: Sequence[Buffer], group: Value, g: Value) -> None:
        """The minima of a group times the sums of the rows' codes; `g` is its number since the last `take`."""
        limbs, b = self.spec.limbs, self.b
        for m in range(self.shape.rows):
            row = self.m0 + m
            x_sums = [splat(b["sums"][self.row_tile, group, row * limbs + limb]) for limb in range(limbs)]
            x_sum = let("x_sum", joined(x_sums))
            for total, (column, _) in zip(sums, self.columns, strict=True):
                least = self.weights.least(column, g)
                by = least * splat(b["xs"][self.row_tile, group, row]) if self.spec.row_scales > 1 else least
                store(total, m, fma(x_sum, by, total[m]))

    def begin(self, sums: Sequence[Buffer]) -> None:
        """Before the first `dots`."""

    def end(self, sums: Sequence[Buffer]) -> None:
        """After the last `dots`."""

    def dots(self, sums: Sequence[Buffer], first: Value, step: Value) -> None:
        """The dot products of the block `first + step`."""
        self.word_dots(sums, first, step, WORDS)

    def fetch(self, first: Value, step: Value) -> None:
        """Prefetch rows of a later block, and codes of the next one."""
        x = self.b["x"]
        for word in range(0, self.shape.rows * WORDS * self.spec.limbs, LINE // 4):
            evaluate(prefetch(T.address_of(x[self.row_tile, first + step + AHEAD, self.m0, word])))
        line = let("line", T.min(self.next_step + step, self.next_lines - 1))
        for _, tile in self.columns:
            self.weights.fetch(tile, self.next, line)

    def word_dots(self, sums: Sequence[Buffer], first: Value, step: Value, words: int) -> None:
        """The dot products of `words` words of the block `first + step`."""
        shape, limbs, x = self.shape, self.spec.limbs, self.b["x"]
        self.fetch(first, step)
        count = shape.rows * limbs
        # The last k's, of which no block is full, are read where they lie.
        whole = words == WORDS
        codes, less = (self.weights.word, self.weights.left) if whole else (self.weights.packed_word, self.weights.less)
        blocks = [BlockSums(count, self.weights.bits, shape.target, less, vectors=True) for _ in self.columns]
        rows = [
            splats(x, (self.row_tile, first + step, self.m0 + m), limb * WORDS, words, shape.target)
            for m, limb in itertools.product(range(shape.rows), range(limbs))
        ]
        for word, (at, row) in itertools.product(range(words), enumerate(rows)):
            for block, array, (column, tile) in zip(blocks, sums, self.columns, strict=True):
                block.add(array, at, at, codes(column, tile, step, word), row[word])
        for block, array in zip(blocks, sums, strict=True):
            for at in range(count):
                block.finish(array, at, at)
