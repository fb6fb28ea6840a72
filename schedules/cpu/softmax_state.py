"""The softmax state of a group of queries: maximum, sum of weights and weighted values, as vectors.

This is the monoid that attention reduces by (FlashAttention's online softmax; FlashInfer's state (O, LSE), kept as maximum and
sum so that merging needs no logarithm). A segment has a state of its own; states of segments merge in ascending order, in
registers where one task walks all of them and through memory where several do: the operations are the same.
"""

from __future__ import annotations

from typing import Any, Protocol

from ..compat import T
from ..emit import Buffer, Value, let, local, serial, store, unroll
from ..vector import LANES, Vec, const, exp, exp_down, fma, lanes, splat

MASKED = -1e30  # the score of a token that a query does not see, and the maximum before any token


def max_lanes(x: Vec) -> Value:
    """The largest lane, as the largest of the integers that order like the floats (llvm's own fmax checks for NaN)."""
    low = T.int32(0x7FFFFFFF)
    bits = T.reinterpret("int32x16", x)
    ordered = T.bitwise_xor(bits, T.bitwise_and(T.shift_right(bits, splat(T.int32(31))), splat(low)))
    top = T.call_llvm_pure_intrin("int32", "llvm.vector.reduce.smax", ordered)
    return T.reinterpret("float32", T.bitwise_xor(top, T.bitwise_and(T.shift_right(top, T.int32(31)), low)))


def sum_lanes(x: Vec) -> Value:
    """The sum of all lanes in ascending order."""
    return T.call_llvm_pure_intrin("float32", "llvm.vector.reduce.fadd", T.float32(0), x)


class Observer(Protocol):
    """What a micro-kernel does with the weights of one query while they are computed."""

    def begin(self) -> None:
        """Before the first page."""

    def weigh(self, weight: Vec, masked: Vec, page: Value) -> Vec:
        """What is stored in place of the weights of a page."""

    def end(self, query: Value) -> None:
        """After the last page."""

    def finish(self, queries: Value, pages: int) -> None:
        """After all queries."""


class SoftmaxState:
    """States of up to `queries` queries with values of `columns` vectors, in arrays of the task."""

    def __init__(self, queries: int, columns: int) -> None:
        self.columns = columns
        self.peak = local("peak", (queries, LANES))
        self.total = local("total", (queries, LANES))
        self.acc = local("acc", (queries, columns * LANES))
        self.peak_all = local("peak_all", (queries, LANES))
        self.total_all = local("total_all", (queries, LANES))
        self.acc_all = local("acc_all", (queries, columns * LANES))

    def reset(self, queries: Value) -> None:
        """The identity: nothing seen yet."""
        with serial(queries, "r") as r:
            store(self.peak, (r, lanes(0)), const(MASKED))
            store(self.total, (r, lanes(0)), const(0.0))
            with serial(self.columns, "d") as d:
                store(self.acc, (r, lanes(d * LANES)), const(0.0))

    def update(self, s: Buffer, queries: Value, pages: int, observer: Observer | None = None) -> None:
        """Fold the scores of `pages` vectors of `s`, masked ones at MASKED, into the state; `s` then holds the weights.

        An observer sees the weights of every query on their way and says what is stored.
        """
        # Three short loops: one long one would wait for its reductions, which here overlap with those of other queries.
        with serial(queries, "r") as r:
            top = local("top", (LANES,), registers=True)
            store(top, lanes(0), self.peak[r, lanes(0)])
            with unroll(pages, "p") as p:
                store(top, lanes(0), T.max(top[lanes(0)], s[r, lanes(p * LANES)]))
            new = let("new", splat(max_lanes(top[lanes(0)])))
            factor = let("factor", exp_down(self.peak[r, lanes(0)] - new))
            store(self.peak, (r, lanes(0)), new)
            store(self.total, (r, lanes(0)), fma(self.total[r, lanes(0)], factor, const(0.0)))
            with unroll(self.columns, "d") as d:
                store(self.acc, (r, lanes(d * LANES)), self.acc[r, lanes(d * LANES)] * factor)
        with serial(queries, "r") as r:
            sum_ = local("sum", (LANES,), registers=True)
            store(sum_, lanes(0), self.total[r, lanes(0)])
            new = let("new", self.peak[r, lanes(0)])
            if observer:
                observer.begin()
            with unroll(pages, "p") as p:
                x = let("x", s[r, lanes(p * LANES)])
                masked = x <= const(MASKED)
                weight = let("weight", T.Select(masked, const(0.0), exp_down(x - new)))
                store(sum_, lanes(0), sum_[lanes(0)] + weight)
                stored = observer.weigh(weight, masked, p) if observer else weight
                store(s, (r, lanes(p * LANES)), stored)
            store(self.total, (r, lanes(0)), sum_[lanes(0)])
            if observer:
                observer.end(r)
        if observer:
            observer.finish(queries, pages)

    def copy(self, r: Value) -> None:
        """The state over all segments becomes that of the segment."""
        store(self.peak_all, (r, lanes(0)), self.peak[r, lanes(0)])
        store(self.total_all, (r, lanes(0)), splat(sum_lanes(self.total[r, lanes(0)])))
        with serial(self.columns, "d") as d:
            store(self.acc_all, (r, lanes(d * LANES)), self.acc[r, lanes(d * LANES)])

    def merge(self, r: Value) -> None:
        """The state over all segments takes in that of the segment."""
        total = splat(sum_lanes(self.total[r, lanes(0)]))
        merge_into(self, r, self.peak[r, lanes(0)], total, lambda d: self.acc[r, lanes(d * LANES)])


def merge_into(state: SoftmaxState, r: Value, peak: Vec, total: Vec, acc: Any) -> None:
    """Merge a segment's state (vectors; `acc(d)` gives the d-th) into the state over all segments of query r."""
    old_peak, old_total = state.peak_all, state.total_all
    new = let("new", T.max(old_peak[r, lanes(0)], peak))
    old_factor = let("old_factor", exp(old_peak[r, lanes(0)] - new))
    factor = let("factor", exp(peak - new))
    store(old_peak, (r, lanes(0)), new)
    store(old_total, (r, lanes(0)), fma(total, factor, old_total[r, lanes(0)] * old_factor))
    with serial(state.columns, "d") as d:
        store(
            state.acc_all,
            (r, lanes(d * LANES)),
            fma(acc(d), factor, state.acc_all[r, lanes(d * LANES)] * old_factor),
        )
