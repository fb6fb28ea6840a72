"""What the sampling kernels are written with: weights and keys of logits, and rows in chunks, in parallel where there are few.

Names and numbers are those of `runtime.sampler.reference`, which defines the results. A row is read once in full, for the
maxima of its groups; the later steps look only into chunks whose maxima say that they hold something.
"""

from __future__ import annotations

from collections.abc import Callable

from ...runtime.sampler.reference import MAX_VOCABULARY, UNIT_BITS, WEIGHT_BITS
from ..compat import T
from ..emit import Buffer, Value, i64, let, local, parallel, serial, store, when
from ..vector import LANES, Vec, const, exp_parts, lanes, splat
from .plan_step import Count

VECTORS = 32
CHUNK = VECTORS * LANES  # tokens
PARALLEL_UNITS = 16  # at least so many units of work are dealt to the threads when rows are few
HALF = UNIT_BITS // 2
INFINITY = float("inf")

Load = Callable[[Value], Vec]
"""Gives the 16 logits that begin at an offset within a chunk."""


def any_lane(condition: Vec) -> Value:
    """Whether a comparison of vectors holds in any lane."""
    return T.call_llvm_pure_intrin("bool", "llvm.vector.reduce.or", condition)


def is_nan(x: Vec) -> Vec:
    """Which lanes are NaN, by their bits (TVM takes x == x for true)."""
    magnitude = T.bitwise_and(T.reinterpret(f"int32x{LANES}", x), T.broadcast(T.int32(0x7FFFFFFF), LANES))
    return magnitude > T.broadcast(T.int32(0x7F800000), LANES)


def weigh(z: Vec) -> Vec:
    """e**z * 2**40 as int64x16, rounded down, for z <= 0."""
    p, n = exp_parts(T.max(z, const(-40.0)))
    mantissa = T.cast(T.cast(p * const(2.0**30), f"int32x{LANES}"), f"int64x{LANES}")
    wide = T.shift_left(mantissa, T.broadcast(T.int64(WEIGHT_BITS - 30), LANES))
    return T.shift_right(wide, T.cast(T.cast(const(0.0) - n, f"int32x{LANES}"), f"int64x{LANES}"))


def part(total: Value, fraction: Value) -> Value:
    """floor(total * fraction / 2**62) for numbers below 2**62, or fraction = 2**62: by halves, which fit in int64."""
    low = T.int64((1 << HALF) - 1)
    (th, tl), (fh, fl) = (
        (T.shift_right(x, T.int64(HALF)), T.bitwise_and(x, low)) for x in (let("total", total), let("part", fraction))
    )
    middle = th * fl + tl * fh + T.shift_right(tl * fl, T.int64(HALF))
    return th * fh + T.shift_right(middle, T.int64(HALF))


def ordered(x: Vec) -> Vec:
    """uint32 keys in the order of float32 x; zeros are equal."""
    bits = T.reinterpret(f"uint32x{LANES}", T.Select(x == const(0.0), const(0.0), x))
    sign = T.broadcast(T.uint32(1 << 31), LANES)
    return T.Select(bits >= sign, T.bitwise_xor(bits, T.broadcast(T.uint32(0xFFFFFFFF), LANES)), bits + sign)


def unordered(key: Value) -> Value:
    """The float32 of a scalar key."""
    sign = T.uint32(1 << 31)
    return T.reinterpret("float32", T.Select(key >= sign, key - sign, T.bitwise_xor(key, T.uint32(0xFFFFFFFF))))


class Rows:
    """The rows of one call: their group maxima, the sums of their chunks' weights, and how they are walked.

    A group is a lane of a chunk: 32 tokens, each 16 after the other.
    """

    def __init__(self, logits: Buffer, vocab: int, count: Value) -> None:
        if vocab > MAX_VOCABULARY:
            raise ValueError(f"a vocabulary of {vocab} tokens; sums of weights are exact up to {MAX_VOCABULARY}")
        self.logits, self.vocab, self.count = logits, vocab, count
        self.whole, self.chunks = vocab // CHUNK, -(-vocab // CHUNK)
        self.groups = self.chunks * LANES
        self.maxima = local("maxima", (count, self.groups))
        self.sums = local("sums", (count, self.chunks), "int64")

    def walk(self, row: Value, first: Value, end: Value, body: Callable[[Value, Load], None]) -> None:
        """`body(chunk, load)` for chunks [first, end) of a row of logits; what is missing in the last one is -inf."""
        logits, whole = self.logits, self.whole
        with serial(T.max(T.min(end, i64(whole)) - first, i64(0)), "c") as c:
            chunk = let("chunk", first + c)
            body(chunk, lambda at: logits[row, lanes(chunk * CHUNK + at)])
        if self.chunks > whole:
            with when(end > whole):
                last = local("last", (CHUNK,))
                with serial(VECTORS, "v") as v:
                    store(last, lanes(v * LANES), const(-INFINITY))
                with serial(self.vocab - whole * CHUNK, "k") as k:
                    store(last, k, logits[row, whole * CHUNK + k])
                body(i64(whole), lambda at: last[lanes(at)])

    def in_parts(self, body: Callable[[Value, Value, Value], None]) -> None:
        """`body(i, first chunk, end)` over all rows, each in parts where there are few, in parallel."""
        parts = let("parts", T.max(T.truncdiv(i64(PARALLEL_UNITS), T.max(self.count, i64(1))), i64(1)))
        with parallel(self.count * parts, "unit") as unit:
            i, number = let("i", T.truncdiv(unit, parts)), let("number", T.truncmod(unit, parts))
            first, end = (let("bound", T.truncdiv((number + n) * self.chunks, parts)) for n in (0, 1))
            body(i, first, end)

    def scan(self, row_of: Callable[[Value], Value]) -> None:
        """The maxima of all groups; +inf where a group has a NaN."""

        def body(i: Value, first: Value, end: Value) -> None:
            def chunk_maxima(chunk: Value, load: Load) -> None:
                most, wrong = (
                    local("most", (2, LANES), registers=True),
                    local("wrong", (2, LANES), "int32", registers=True),
                )
                for half in (0, 1):
                    store(most, [half, lanes(0)], const(-INFINITY))
                    store(wrong, [half, lanes(0)], T.broadcast(T.int32(0), LANES))
                with serial(VECTORS // 2, "v") as v:
                    for half in (0, 1):
                        x = let("x", load((2 * v + half) * LANES))
                        nan = T.Select(is_nan(x), T.broadcast(T.int32(1), LANES), T.broadcast(T.int32(0), LANES))
                        store(most, [half, lanes(0)], T.max(most[half, lanes(0)], x))
                        store(wrong, [half, lanes(0)], T.bitwise_or(wrong[half, lanes(0)], nan))
                bad = T.bitwise_or(wrong[0, lanes(0)], wrong[1, lanes(0)]) != T.broadcast(T.int32(0), LANES)
                top = T.Select(bad, const(INFINITY), T.max(most[0, lanes(0)], most[1, lanes(0)]))
                store(self.maxima, [i, lanes(chunk * LANES)], top)

            self.walk(let("row", row_of(i)), first, end, chunk_maxima)

        self.in_parts(body)

    def largest(self, i: Value) -> Value:
        """The largest logit of a row; +inf where it has a NaN."""
        most = local("most", (LANES,), registers=True)
        store(most, lanes(0), const(-INFINITY))
        with serial(self.chunks, "c") as c:
            store(most, lanes(0), T.max(most[lanes(0)], self.maxima[i, lanes(c * LANES)]))
        for half in (8, 4, 2, 1):
            store(
                most,
                lanes(0, half) if half > 1 else 0,
                T.max(*(most[lanes(a, half) if half > 1 else a] for a in (0, half))),
            )
        return let("largest", most[0])

    def sum_weights(
        self,
        row_of: Callable[[Value], Value],
        wanted: Callable[[Value], Value],
        scale: Callable[[Value], tuple[Value, Value]],
    ) -> None:
        """The sums of weights of every chunk of the wanted rows; `scale(i)` gives 1 / temperature and the least z."""

        def body(i: Value, first: Value, end: Value) -> None:
            with when(wanted(i)):
                largest = self.largest(i)
                inverse, low = scale(i)

                def chunk_sum(chunk: Value, load: Load) -> None:
                    total = local("total", (LANES,), "int64", registers=True)
                    store(total, lanes(0), T.broadcast(T.int64(0), LANES))
                    with serial(VECTORS, "v") as v:
                        z = let("z", (load(v * LANES) - splat(largest)) * splat(inverse))
                        weight = T.Select(z >= splat(low), weigh(z), T.broadcast(T.int64(0), LANES))
                        store(total, lanes(0), total[lanes(0)] + weight)
                    store(self.sums, [i, chunk], add_lanes(total))

                self.walk(let("row", row_of(i)), first, end, chunk_sum)

        self.in_parts(body)

    def total(self, i: Value) -> Value:
        """The sum of all weights of a row."""
        total = Count("row_total")
        with serial(self.chunks, "c") as c:
            total.add(self.sums[i, c])
        return total.value


def add_lanes(values: Buffer) -> Value:
    """The sum of 16 int64 elements."""
    total: Value = values[0]
    for lane in range(1, LANES):
        total = total + values[lane]
    return total
