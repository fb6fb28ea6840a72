"""The quantized linear kernel for many rows: register tiles over packed codes of rows and 16-column tiles of weights.

A task is two column tiles (with silu one of each part) and up to 264 rows. It walks K in blocks whose weight codes stay in L2;
int4 codes are expanded to bytes once a block, and every row tile of the task reads the expansion. The sums of all its rows
live in a buffer of the task from block to block. The expressions are those of quant_spec.py, so that a row has the bits that
the kernel for few rows gives it.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..compat import PrimFunc, T, tirx
from ..emit import Buffer, Value, i64, let, local, parallel, prim_func, serial, settle, store
from ..layouts.rows import ROW_TILE
from ..target import TargetProfile
from ..vector import Vec, const, fma
from .linear_spec import VECTOR
from .quant_spec import QuantSpec, joined
from .quant_tiles_matrix import MatrixTile
from .quant_tiles_registers import TASK_ROWS, RegisterTile, Shape
from .quant_tiles_weights import INTEGERS, weights_of


def quant_tiles(spec: QuantSpec, target: TargetProfile) -> PrimFunc:
    """Packed codes of rows (tiles of 12 rows), weight, [bias], [residual] -> y float32 [n, N].

    Raises ValueError for float32 activations, which have no codes.
    """
    if not spec.limbs:
        raise ValueError(
            "the integer kernel for many rows needs quantized activations; take limbs or int8, or the kernel for few rows"
        )
    n, row_tiles = tirx.Var("n", "int64"), tirx.Var("row_tiles", "int64")
    b = {
        **spec.activation_buffers(n, row_tiles, ROW_TILE),
        **spec.weight_buffers(),
        **spec.epilogue_buffers(n),
        **spec.output_buffer(n),
    }
    with prim_func(list(b.values())) as made:
        shape = Shape(spec, target)
        with parallel(shape.row_blocks(row_tiles) * shape.column_tasks, "task") as task:
            _Task(shape, b, n, row_tiles, task).emit()
    return made[0]


class _Task:
    """The statements of one task."""

    def __init__(self, shape: Shape, b: Mapping[str, Buffer], n: Value, row_tiles: Value, task: Value) -> None:
        self.shape, self.spec, self.b, self.n = shape, shape.spec, b, n
        # Truncated divisions of what is never negative: TVM takes most of a second to prove that of floor divisions.
        column = let("column", T.truncmod(task, i64(shape.column_tasks)))
        row_block = let("row_block", T.truncdiv(task, i64(shape.column_tasks)))
        row_blocks = let("row_blocks", shape.row_blocks(row_tiles))
        # Equal blocks of row tiles; settled, because substituted quotients took half of this kernel's compile time.
        self.first = settle("first", T.truncdiv(row_block * row_tiles, row_blocks))
        self.row_tiles = settle("count", T.truncdiv((row_block + 1) * row_tiles, row_blocks) - self.first)
        # The tiles within a part; the last task of an odd number does its last tile twice.
        self.tiles = [
            let(f"tile{i}", T.min(column * shape.per_part + i, i64(self.spec.tiles - 1))) for i in range(shape.per_part)
        ]
        spec = self.spec
        self.limbs = spec.limbs if spec.integer else 1  # sums that a row and column tile carry from block to block
        dtype = INTEGERS if spec.integer else VECTOR
        self.carry = local("carry", (TASK_ROWS * shape.width * self.limbs,), dtype)
        self.weights = weights_of(spec, b, shape.width, shape.block, shape.target)

    def tile(self, column: int) -> Value:
        """The tile over all parts that the task's column tile is."""
        part, i = divmod(column, self.shape.per_part)
        return self.tiles[i] + part * self.spec.tiles

    def slot(self, row: Value, column: int, limb: int = 0) -> Value:
        """Where the sums of a row of the task and of a column tile lie."""
        return (row * self.shape.width + column) * self.limbs + limb

    def emit(self) -> None:
        """All rows of the task, from the packed codes to y."""
        shape = self.shape
        self.begin()
        with serial(i64(shape.count), "block") as block:
            first = let("first_block", block * shape.block)
            blocks = let("blocks", T.min(i64(shape.block), shape.whole - first))
            for column in range(shape.width):
                self.weights.take(column, self.tile(column), first, blocks)
            with serial(self.row_tiles, "rt") as rt:
                for column in range(0, shape.width, shape.columns):
                    with serial(i64(ROW_TILE // shape.rows), "part_rows") as part_rows:
                        self.add_block(rt, part_rows * shape.rows, column, first, blocks)
        with serial(T.min(self.row_tiles * ROW_TILE, self.n - self.first * ROW_TILE), "r") as r:
            self.store_row(r)

    def begin(self) -> None:
        """What the sums begin with: +0, or what the zero point of the weights takes from integer sums over all of K."""
        with serial(self.row_tiles, "rt") as rt:
            starts = self.weights.starts(self.first + rt) if self.spec.integer else lambda at, tile: const(0.0)
            with serial(ROW_TILE, "m") as m:
                for column in range(self.shape.width):
                    for limb in range(self.limbs):
                        begin = starts(m * self.limbs + limb, self.tile(column))
                        store(self.carry, self.slot(rt * ROW_TILE + m, column, limb), begin)

    def add_block(self, rt: Value, m0: Value, column: int, first: Value, blocks: Value) -> None:
        """Add a block of K to the sums of a register tile, which leave their buffer for the registers meanwhile."""
        shape = self.shape
        columns = range(column, column + shape.columns)
        kind = MatrixTile if shape.matrix else RegisterTile
        tile = kind(shape, self.b, self.weights, self.first + rt, m0, [(c, self.tile(c)) for c in columns])
        slot = let("slot", self.slot(rt * ROW_TILE + m0, column))
        count, row = shape.columns * self.limbs, shape.width * self.limbs
        held = [local(f"acc{c}", (shape.rows * self.limbs,), self.carry.dtype) for c in range(shape.columns)]
        for m in range(shape.rows):
            for i in range(count):
                store(held[i // self.limbs], m * self.limbs + i % self.limbs, self.carry[slot + m * row + i])
        turn = rt * (ROW_TILE // shape.rows) + T.truncdiv(m0, i64(shape.rows))
        tile.add(held, first, blocks, turn)
        for m in range(shape.rows):
            for i in range(count):
                store(self.carry, slot + m * row + i, held[i // self.limbs][m * self.limbs + i % self.limbs])

    def store_row(self, r: Value) -> None:
        """Finish a row of the task: scales, epilogue, and only the columns that exist."""
        spec, shape = self.spec, self.shape
        row = let("y_row", self.first * ROW_TILE + r)
        tile, m = T.truncdiv(row, i64(ROW_TILE)), T.truncmod(row, i64(ROW_TILE))
        x_scale = self.b["xs"][tile, 0, m]
        for i in range(shape.per_part):
            sums: list[Vec] = []
            for part in range(spec.parts):
                column = part * shape.per_part + i
                held = [self.carry[self.slot(r, column, limb)] for limb in range(self.limbs)]
                value = joined(held) if spec.integer else held[0]
                if spec.integer and not spec.weight.two_level:
                    value = fma(value, spec.scales(self.b, self.tile(column), i64(0)), const(0.0))
                sums.append(value)
            spec.store_tile(self.b, sums, x_scale, row, self.tiles[i])
