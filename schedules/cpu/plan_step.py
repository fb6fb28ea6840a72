"""What the compiled plan builder is written with: counts, the tile at hand, and the arrays of a step with their small words.

Names are those of `runtime.plans.fill`, which defines the result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ...runtime.plans import KV_SEGMENT, PlanLayout
from ...runtime.plans import step as fields
from ...runtime.plans.fill import TILE_FROM
from ...runtime.plans.layout import FAR, ITEM_FIELDS, TILE_FIELDS
from ..compat import T
from ..emit import Buffer, Value, i64, let, local, serial, store, when


class Count:
    """A number that statements change."""

    def __init__(self, name: str, value: Value = 0) -> None:
        self.cell = local(name, (1,), "int64", registers=True)
        self.set(value)

    @property
    def value(self) -> Value:
        """The number at the time of the statement that reads it."""
        return self.cell[0]

    def set(self, value: Value) -> None:
        store(self.cell, 0, i64(value))

    def add(self, value: Value) -> None:
        self.set(self.cell[0] + value)


class Costs:
    """Items or tiles so far: how many, and the sums of their costs up to each."""

    def __init__(self, name: str, most: int) -> None:
        self.most = most
        self.ends = local(f"{name}_ends", (most,), "int64")
        self.number, self.total = Count(f"{name}s"), Count(f"{name}_total")

    def add(self, cost: Value) -> None:
        self.total.add(cost)
        store(self.ends, self.number.value, self.total.value)
        self.number.add(1)


class Step:
    """The arrays of a step, which segments its rows still need, and the work that was found."""

    def __init__(self, layout: PlanLayout, sequences: Buffer, options: Buffer, plan: Buffer, positions: Buffer) -> None:
        self.layout, self.sequences, self.plan, self.positions = layout, sequences, plan, positions
        names = ("count", "rows_only", "workers", "window", "cascade")  # in the order of the fields
        self.count, self.rows_only, self.workers, self.window, self.cascade = (
            let(name, i64(options[at])) for at, name in enumerate(names)
        )
        self.n, self.states, self.tile_rows, self.merges = (Count(s) for s in ("n", "states", "tile_rows", "merges"))
        self.items, self.tiles = Costs("item", layout.max_row_items), Costs("tile", layout.max_tiles)
        self.first_row = local("first_row", (layout.max_seqs,), "int64")
        self.group = local("group", (layout.max_seqs,), "int64")  # of each sequence in one: 1 + the group's first
        self.first = local("first", (layout.max_tokens,), "int64")
        self.tile = Tile(self)

    def put(self, at: Value, *values: Value) -> None:
        """Store numbers in the plan, one after the other."""
        for i, value in enumerate(values):
            store(self.plan, at + i, T.cast(i64(value), "int32"))

    def number(self, at: Value) -> Value:
        """An entry of the plan."""
        return i64(self.plan[at])

    def field(self, sequence: Value, field: int) -> Value:
        """A field of a sequence."""
        return i64(self.sequences[sequence, field])

    def limit(self, row: Value) -> Value:
        """The last position that a row sees."""
        return self.number(self.layout.limit + row)

    def end(self, row: Value) -> Value:
        """The segment after the last that a row needs."""
        return T.truncdiv(self.limit(row), i64(KV_SEGMENT)) + 1

    def whole(self, sequence: Value) -> Value:
        """Whole segments before a sequence's new rows."""
        return T.truncdiv(self.field(sequence, fields.START), i64(KV_SEGMENT))

    def tiled(self, sequence: Value) -> Value:
        """Whether a sequence's rows are served in tiles."""
        return T.And(self.rows_only == 0, self.field(sequence, fields.NEW_ROWS) >= TILE_FROM)

    @contextlib.contextmanager
    def rows_of(self, sequence: Value) -> Iterator[Value]:
        """A loop over the rows of a sequence."""
        with serial(self.field(sequence, fields.NEW_ROWS), "r") as r:
            yield let("row", self.first_row[sequence] + r)

    @contextlib.contextmanager
    def rows_where(self, chosen: Value, first: Value) -> Iterator[Value]:
        """A loop over the rows of the sequences from `first` on that `chosen(sequence)` chooses."""
        with serial(self.count - first, "later") as later:
            s = let("s", first + later)
            with when(chosen(s)), self.rows_of(s) as row:
                yield row

    def keep(self, row: Value) -> None:
        """Give every segment that a row needs a state in memory."""
        self.put(self.layout.state + row, self.states.value - self.first[row])
        self.states.add(self.end(row) - self.first[row])

    def item(self, row: Value, begin: Value, end: Value) -> None:
        """One more row item."""
        self.put(self.layout.row_item + self.items.number.value * ITEM_FIELDS, row, begin, end)
        self.items.add(T.min(end * KV_SEGMENT, self.limit(row) + 1) - begin * KV_SEGMENT)


class Tile:
    """The tile that is being gathered, row by row, and which segments its rows need."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.rows, self.first, self.end, self.last = (Count(name) for name in ("rows", "first", "end", "last"))
        self._reset()

    def add(self, row: Value) -> None:
        """One more row."""
        step = self.step
        step.put(step.layout.tile_row + step.tile_rows.value, row)
        step.tile_rows.add(1)
        self.rows.add(1)
        self.first.set(T.min(self.first.value, step.first[row]))
        self.end.set(T.max(self.end.value, step.end(row)))
        self.last.set(T.max(self.last.value, step.limit(row)))

    def close(self, first: Value, end: Value) -> None:
        """Write the tile over segments [first, end) and begin another."""
        step, rows = self.step, self.rows.value
        at = step.layout.tile + step.tiles.number.value * TILE_FIELDS
        step.put(at, step.tile_rows.value - rows, rows, first, end)
        step.tiles.add(rows * (T.min(end * KV_SEGMENT, self.last.value + 1) - first * KV_SEGMENT))
        self._reset()

    def _reset(self) -> None:
        for count, value in ((self.rows, 0), (self.first, FAR), (self.end, 0), (self.last, 0)):
            count.set(value)
