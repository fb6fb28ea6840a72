"""The candidates of one row that is sampled: gathered, weighed, and cut by radix selection.

Names and numbers are those of `runtime.sampler.reference`, which defines the results.
"""

from __future__ import annotations

from ..compat import T
from ..emit import Buffer, Value, i64, let, local, otherwise, serial, store, when
from ..vector import LANES, Vec, lanes, splat
from .plan_step import Count
from .sample_row import CHUNK, INFINITY, VECTORS, Load, Rows, any_lane, ordered, unordered, weigh

RADIX_BITS = 8
RADIX = 1 << RADIX_BITS
WAYS = 4  # histograms filled in turns: keys are alike, and adding to one counter again waits for the time before


def ones(condition: Vec) -> Vec:
    """int32x16: 1 where a comparison of vectors holds, else 0."""
    return T.Select(condition, T.broadcast(T.int32(1), LANES), T.broadcast(T.int32(0), LANES))


class Candidates:
    """Some tokens of one row in ascending order: keys, ids, logarithms z and weights."""

    def __init__(self, rows: Rows, i: Value, row: Value, inverse: Value) -> None:
        room = -(-max(rows.vocab, rows.groups) // LANES) * LANES + LANES
        self.rows, self.i, self.row, self.inverse = rows, i, row, inverse
        self.largest = rows.largest(i)
        self.keys, self.ids = local("keys", (room,), "uint32"), local("ids", (room,), "int32")
        self.z, self.weights = local("z", (room,)), local("weights", (room,), "int64")
        self.histogram = local("histogram", (WAYS, RADIX), "int64")
        self.count, self.key, self.rest = Count("count"), Count("key"), Count("rest")

    def bound(self, wanted: Value) -> Value:
        """A z that at least `wanted` tokens reach, by the maxima of groups; -inf where there are fewer groups."""
        rows = self.rows
        found = local("bound", (1,), registers=True)
        store(found, 0, T.float32(-INFINITY))
        with when(wanted <= rows.groups):
            with serial(rows.chunks, "c") as c:
                store(self.keys, lanes(c * LANES), ordered(rows.maxima[self.i, lanes(c * LANES)]))
            self.select(i64(rows.groups), wanted, None)
            key = T.cast(self.key.value, "uint32")
            store(found, 0, (unordered(key) - self.largest) * self.inverse)
        return found[0]

    def gather(self, low: Value, first: Value, end: Value) -> None:
        """The tokens of chunks [first, end) whose z is at least `low`."""
        rows, limit = self.rows, splat(low)
        self.count.set(0)

        def chunk_tokens(chunk: Value, load: Load) -> None:
            def logarithm(x: Vec) -> Vec:
                return (x - splat(self.largest)) * splat(self.inverse)

            found = any_lane(logarithm(rows.maxima[self.i, lanes(chunk * LANES)]) >= limit)
            with when(found), serial(VECTORS, "v") as v:
                x, token = let("x", load(v * LANES)), let("token", T.cast(chunk * CHUNK + v * LANES, "int32"))
                z, ids = let("z", logarithm(x)), let("tokens", T.ramp(token, 1, LANES))
                inside = T.And(z >= limit, ids < T.broadcast(T.int32(rows.vocab), LANES))
                with when(any_lane(inside)):
                    self._append(inside, ordered(x), ids, z)

        rows.walk(self.row, first, end, chunk_tokens)

    def _append(self, inside: Vec, keys: Vec, ids: Vec, z: Vec) -> None:
        """Add the lanes that are inside. All are written, one after the other; what is inside stays."""
        arrays = (("uint32", keys), ("int32", ids), ("float32", z), ("int32", ones(inside)))
        copies = [local("some", (LANES,), dtype, registers=True) for dtype, _ in arrays]
        for copy, (_, values) in zip(copies, arrays, strict=True):
            store(copy, lanes(0), values)
        with serial(LANES, "lane") as lane:
            for array, copy in zip((self.keys, self.ids, self.z), copies, strict=False):
                store(array, self.count.value, copy[lane])
            self.count.add(i64(copies[-1][lane]))

    def weigh(self) -> None:
        """Weights of the candidates."""
        with serial(T.truncdiv(self.count.value + (LANES - 1), i64(LANES)), "v") as v:
            store(self.weights, lanes(v * LANES), weigh(self.z[lanes(v * LANES)]))

    def total(self) -> Value:
        """The sum of their weights."""
        total = Count("list_total")
        with serial(self.count.value, "k") as k:
            total.add(self.weights[k])
        return total.value

    def select(self, count: Value, wanted: Value, amounts: Buffer | None) -> None:
        """Find the key at which the amounts (None: 1 each) from the largest key on reach `wanted` >= 1, which all together
        do. `key` is it, `rest` what is still wanted of those that have it."""
        self.key.set(0)
        self.rest.set(wanted)
        with serial(32 // RADIX_BITS, "d") as d:
            shift = let("shift", i64(32 - RADIX_BITS) - d * RADIX_BITS)
            with serial(RADIX // LANES, "b") as b:
                for way in range(WAYS):
                    store(self.histogram, [way, lanes(b * LANES)], T.broadcast(T.int64(0), LANES))
            with serial(count, "k") as k:
                key = let("wide", T.cast(self.keys[k], "int64"))
                with when(T.shift_right(key, shift + RADIX_BITS) == self.key.value):
                    digit = let("digit", T.bitwise_and(T.shift_right(key, shift), T.int64(RADIX - 1)))
                    way = let("way", T.bitwise_and(k, T.int64(WAYS - 1)))
                    more = i64(1) if amounts is None else amounts[k]
                    store(self.histogram, (way, digit), self.histogram[way, digit] + more)
            with serial(RADIX // LANES, "b") as b:
                at = lanes(b * LANES)
                ways: Vec = [self.histogram[way, at] for way in range(WAYS)]
                store(self.histogram, [0, at], sum(ways[1:], ways[0]))
            found = Count("found", -1)
            with serial(RADIX, "b") as b, when(found.value < 0):
                digit = let("digit", i64(RADIX - 1) - b)
                reached = let("reached", self.rest.value <= self.histogram[0, digit])
                with when(reached):
                    found.set(digit)
                with otherwise(reached):
                    self.rest.add(-self.histogram[0, digit])
            self.key.set(T.shift_left(self.key.value, T.int64(RADIX_BITS)) + found.value)

    def keep(self, wanted: Value, amounts: Buffer | None) -> None:
        """Keep the fewest candidates whose amounts reach `wanted`, the largest keys first, then the lowest ids."""
        self.select(self.count.value, wanted, amounts)
        kept = Count("kept")
        with serial(self.count.value, "k") as k:
            key, amount = let("own", i64(self.keys[k])), let("amount", i64(1) if amounts is None else amounts[k])
            tie = let("tie", T.And(key == self.key.value, self.rest.value > 0))
            for array in (self.keys, self.ids, self.z, self.weights):  # no branch: which one is taken is hard to guess
                store(array, kept.value, array[k])
            kept.add(T.cast(T.Or(key > self.key.value, tie), "int64"))
            self.rest.add(T.Select(tie, -amount, i64(0)))
        self.count.set(kept.value)
