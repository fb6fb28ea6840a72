"""The kernels of the sampler: `runtime.sampler.reference` token by token.

Sums of weights are integers, so no order or width changes them; a row's result depends on its own arguments alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...runtime.sampler import reference
from ...runtime.sampler.reference import (
    DRAW_FIELDS,
    FLOOR,
    GREEDY,
    INFORMATION_BITS,
    LEAST,
    RANDOM,
    RANK,
    ROW,
    SCALE,
    SCALE_FIELDS,
    TOP_K,
    TOP_P,
    TOTAL,
    TYPICAL_P,
    UNIT,
    WEIGHT_BITS,
)
from ..compat import PrimFunc, T, finish, tirx
from ..emit import Buffer, Value, buffer, i64, let, local, otherwise, parallel, prim_func, serial, store, when
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import LANES, lanes, splat
from .plan_step import Count
from .sample_candidates import Candidates, ones
from .sample_row import INFINITY, VECTORS, Load, Rows, part

LISTED = -8.0
"""Rows whose candidates reach this z (by min_p) are taken to have few of them, which are listed at once."""

_EXACT = Tolerance(0.0, "sums are exact integers")


def _logits(rng: np.random.Generator, vocab: int, n: int) -> np.ndarray:
    """Normal logits, a row of ties, one with impossible tokens, and one that is unusable."""
    logits = rng.normal(0, 3, (n, vocab)).astype(np.float32)
    if n > 3:
        logits[1] = np.round(logits[1])
        logits[2, rng.random(vocab) < 0.9] = -np.inf
        logits[3, vocab // 2] = np.nan
    return logits


def _draw_inputs(rng: np.random.Generator, *, vocab: int, n: int, rows: int) -> list[np.ndarray]:
    """Rows with every kind of parameters, in turns."""
    table, scales = np.zeros((rows, DRAW_FIELDS), np.int64), np.ones((rows, SCALE_FIELDS), np.float32)
    table[:, ROW] = rng.integers(0, n, rows)
    table[:, TOP_P] = table[:, TYPICAL_P] = UNIT
    table[:, RANDOM] = rng.integers(0, UNIT, rows)
    scales[:, FLOOR] = -np.inf
    for i in range(rows):
        table[i, GREEDY] = i % 9 == 0
        table[i, TOP_K] = (0, 7, 50, 0, vocab // 2)[i % 5]
        table[i, TOP_P] = (UNIT, int(0.9 * UNIT), UNIT, int(0.99 * UNIT))[i % 4]
        table[i, TYPICAL_P] = int(0.8 * UNIT) if i % 7 == 3 else UNIT
        scales[i] = (1.0, 2.0, 0.4)[i % 3], math.log(0.01) if i % 11 == 5 else -math.inf
    return [_logits(rng, vocab, n), table, scales]


def _draw_reference(logits: np.ndarray, table: np.ndarray, scales: np.ndarray, **_: Any) -> tuple[np.ndarray]:
    tokens = np.empty(len(table), np.int32)
    reference.choose(logits, table, scales, tokens)
    return (tokens,)


@kernel(
    reference=_draw_reference,
    inputs=_draw_inputs,
    cost=lambda *, vocab, rows, **_: Cost(bytes=4 * rows * vocab, flops=20 * rows * vocab),
    tolerance=_EXACT,
    cases=[
        Case({"vocab": 1000}, {"n": 8, "rows": 60}),
        Case({"vocab": 5}, {"n": 5, "rows": 40}),
        Case({"vocab": 512}, {"n": 2, "rows": 3}),
        Case({"vocab": 32003}, {"n": 4, "rows": 24}),
    ],
)
def sample_tokens(*, vocab: int, target: TargetProfile) -> PrimFunc:
    """logits float32 [n, vocab], table int64 [m, DRAW_FIELDS], scales float32 [m, SCALE_FIELDS] -> tokens int32 [m]."""
    m = tirx.Var("m", "int64")
    logits = buffer("logits", (tirx.Var("n", "int64"), vocab), "float32")
    table, scales = buffer("table", (m, DRAW_FIELDS), "int64"), buffer("scales", (m, SCALE_FIELDS), "float32")
    tokens = buffer("tokens", (m,), "int32")
    with prim_func([logits, table, scales, tokens]) as made:
        rows = Rows(logits, vocab, m)
        rows.scan(lambda i: table[i, ROW])
        rows.sum_weights(
            lambda i: table[i, ROW],
            lambda i: T.And(_unlisted(table, scales, i), T.Or(table[i, TOP_P] < UNIT, table[i, TYPICAL_P] == UNIT)),
            lambda i: (scales[i, SCALE], _floor(scales, i)),
        )
        with parallel(m, "i") as i:
            _choose(Draws(rows, table, scales, i), tokens)
    return finish(made[0])


def _floor(scales: Buffer, i: Value) -> Value:
    """The least z of a row's candidates."""
    return T.max(scales[i, FLOOR], T.float32(LEAST))


def _unlisted(table: Buffer, scales: Buffer, i: Value) -> Value:
    """Whether neither top_k nor min_p says that a row's candidates are few."""
    return T.And(T.And(table[i, GREEDY] == 0, table[i, TOP_K] == 0), scales[i, FLOOR] < T.float32(LISTED))


class Draws(Candidates):
    """One row that is to be drawn."""

    def __init__(self, rows: Rows, table: Buffer, scales: Buffer, i: Value) -> None:
        super().__init__(rows, i, let("row", table[i, ROW]), let("inverse", scales[i, SCALE]))
        self.greedy, self.top_k, self.top_p, self.typical_p, self.random = (
            let(name, table[i, field])
            for name, field in (
                ("greedy", GREEDY),
                ("top_k", TOP_K),
                ("top_p", TOP_P),
                ("typical_p", TYPICAL_P),
                ("random", RANDOM),
            )
        )
        self.floor = let("floor", _floor(scales, i))
        unlisted = let("unlisted", _unlisted(table, scales, i))
        self.plain = let("plain", T.And(unlisted, T.And(self.top_p == UNIT, self.typical_p == UNIT)))
        self.nucleus = let("nucleus", T.And(unlisted, self.top_p < UNIT))

    def nucleus_floor(self) -> Value:
        """A z that everything in the nucleus reaches: n tokens of weights under (1 - p) * sum / n do not reach (1 - p) * sum.

        The logarithm is taken down to a whole power of two, and one more, which leaves room for any rounding.
        """
        outside = T.cast(i64(UNIT) - self.top_p, "float32") * T.float32(1.0 / UNIT)
        share = outside * T.cast(self.rows.total(self.i), "float32") * T.float32(2.0**-WEIGHT_BITS / self.rows.vocab)
        exponent = T.shift_right(T.reinterpret("int32", share), T.int32(23)) - T.int32(128)
        return T.cast(exponent, "float32") * T.float32(math.log(2))


def _choose(row: Draws, tokens: Buffer) -> None:
    """The token of one row."""
    store(tokens, row.i, T.int32(reference.NO_TOKEN))
    with when(T.And(row.largest < T.float32(INFINITY), row.largest > T.float32(-INFINITY))):
        point = Count("point", -1)  # where the inverse of the CDF is taken; -1: anywhere in the candidates
        with when(row.plain):
            _find_chunk(row, point)
        with otherwise(row.plain):
            _filter(row)
        with when(row.greedy == 0):
            with when(point.value < 0):
                point.set(part(row.total(), row.random))
            chosen, total = Count("chosen"), Count("sum")
            with serial(row.count.value, "k") as k:
                total.add(row.weights[k])
                chosen.add(T.cast(total.value <= point.value, "int64"))
            store(tokens, row.i, row.ids[chosen.value])
        with when(row.greedy != 0):
            store(tokens, row.i, row.ids[0])


def _find_chunk(row: Draws, point: Count) -> None:
    """The candidates of the chunk where the point falls, and the point within it."""
    point.set(part(row.rows.total(row.i), row.random))
    chunk = Count("chunk", -1)
    with serial(row.rows.chunks, "c") as c, when(chunk.value < 0):
        inside = let("inside", point.value < row.rows.sums[row.i, c])
        with when(inside):
            chunk.set(c)
        with otherwise(inside):
            point.add(-row.rows.sums[row.i, c])
    row.gather(row.floor, chunk.value, chunk.value + 1)
    row.weigh()


def _filter(row: Draws) -> None:
    """The candidates that all filters leave; of a greedy row, the tokens with the largest logit."""
    low, wanted = local("low", (1,), registers=True), Count("wanted")
    store(low, 0, T.Select(row.greedy != 0, T.float32(0), row.floor))
    with when(T.And(row.greedy == 0, row.top_k > 0)):
        store(low, 0, T.max(row.floor, row.bound(row.top_k)))
    with when(row.nucleus):
        store(low, 0, T.max(row.floor, row.nucleus_floor()))
    row.gather(low[0], i64(0), i64(row.rows.chunks))
    with when(T.And(row.top_k > 0, row.count.value > row.top_k)):
        row.keep(row.top_k, None)
    row.weigh()
    with when(T.And(row.greedy == 0, row.top_p < UNIT)):
        wanted.set(part(T.Select(row.nucleus, row.rows.total(row.i), row.total()), row.top_p) + 1)
        row.keep(wanted.value, row.weights)
    with when(T.And(row.greedy == 0, row.typical_p < UNIT)):
        wanted.set(part(row.total(), row.typical_p) + 1)
        _order_by_information(row)
        row.keep(wanted.value, row.weights)


def _order_by_information(row: Draws) -> None:
    """Give the candidates keys that are larger the nearer their information is to the expected one."""
    sums, expected = Count("sums"), Count("expected")

    def information(k: Value) -> Value:
        return T.cast((T.float32(0) - row.z[k]) * T.float32(1 << INFORMATION_BITS), "int64")

    with serial(row.count.value, "k") as k:
        coarse = let("coarse", T.shift_right(row.weights[k], T.int64(12)))
        sums.add(coarse)
        expected.add(coarse * information(k))
    expected.set(T.truncdiv(expected.value, sums.value))
    with serial(row.count.value, "k") as k:
        away = let("away", information(k) - expected.value)
        store(row.keys, k, T.cast(i64(0xFFFFFFFF) - T.max(away, -away), "uint32"))


def _rank_inputs(rng: np.random.Generator, *, vocab: int, n: int, rows: int, top: int) -> list[np.ndarray]:
    wanted = np.stack([rng.integers(0, n, rows), rng.integers(0, vocab, rows)], axis=1)
    results = np.zeros((rows, 2), np.int64), np.zeros((rows, 2), np.float32)
    tops = np.zeros((rows, top), np.int32), np.zeros((rows, top), np.float32)
    return [_logits(rng, vocab, n), wanted, *results, *tops]


def _rank_reference(*arrays: np.ndarray, **_: Any) -> tuple[np.ndarray, ...]:
    reference.rank(*arrays)
    return arrays[2:]


@kernel(
    reference=_rank_reference,
    inputs=_rank_inputs,
    cost=lambda *, vocab, rows, **_: Cost(bytes=4 * rows * vocab, flops=20 * rows * vocab),
    tolerance=_EXACT,
    cases=[
        Case({"vocab": 1000}, {"n": 8, "rows": 20, "top": 5}),
        Case({"vocab": 5}, {"n": 5, "rows": 9, "top": 5}),
        Case({"vocab": 1030}, {"n": 4, "rows": 4, "top": 700}),
        Case({"vocab": 32003}, {"n": 2, "rows": 3, "top": 1}),
    ],
    num_outputs=0,
    inplace=(2, 3, 4, 5),
)
def rank_tokens(*, vocab: int, target: TargetProfile) -> PrimFunc:
    """logits float32 [n, vocab], wanted int64 [m, 2] -> sums int64 [m, 2], values float32 [m, 2], top_ids int32 [m, t] and
    top_values float32 [m, t], filled in place as `runtime.sampler.reference.rank` says."""
    m, t = tirx.Var("m", "int64"), tirx.Var("t", "int64")
    logits = buffer("logits", (tirx.Var("n", "int64"), vocab), "float32")
    wanted = buffer("wanted", (m, 2), "int64")
    sums, values = buffer("results", (m, 2), "int64"), buffer("values", (m, 2), "float32")
    top_ids, top_values = buffer("top_ids", (m, t), "int32"), buffer("top_values", (m, t), "float32")
    with prim_func([logits, wanted, sums, values, top_ids, top_values]) as made:
        rows = Rows(logits, vocab, m)
        rows.scan(lambda i: wanted[i, 0])
        always = tirx.const(True, "bool")
        rows.sum_weights(lambda i: wanted[i, 0], lambda i: always, lambda i: (T.float32(1), T.float32(LEAST)))
        with parallel(m, "i") as i:
            row = Candidates(rows, i, let("row", wanted[i, 0]), T.float32(1))
            store(sums, (i, TOTAL), i64(0))
            with when(T.And(row.largest < T.float32(INFINITY), row.largest > T.float32(-INFINITY))):
                logit = let("logit", logits[row.row, wanted[i, 1]])
                store(sums, (i, TOTAL), rows.total(i))
                store(sums, (i, RANK), 1 + _count_above(row, logit))
                store(values, (i, 0), row.largest)
                store(values, (i, 1), logit)
                row.gather(row.bound(t), i64(0), i64(rows.chunks))
                with when(row.count.value > t):
                    row.keep(t, None)
                with serial(t, "k") as k:
                    store(top_ids, (i, k), row.ids[k])
                    store(top_values, (i, k), logits[row.row, i64(row.ids[k])])
    return finish(made[0])


def _count_above(row: Candidates, logit: Value) -> Value:
    """Tokens of a row whose logits are larger."""
    above = local("above", (LANES,), "int32", registers=True)
    store(above, lanes(0), T.broadcast(T.int32(0), LANES))

    def count(chunk: Value, load: Load) -> None:
        with serial(VECTORS, "v") as v:
            larger = ones(load(v * LANES) > splat(logit))
            store(above, lanes(0), above[lanes(0)] + larger)

    row.rows.walk(row.row, i64(0), i64(row.rows.chunks), count)
    total: Value = above[0]
    for lane in range(1, LANES):
        total = total + above[lane]
    return i64(total)
