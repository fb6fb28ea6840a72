"""The end of a query: states of its segments merged from memory, and its values divided by the sum of weights."""

from __future__ import annotations

from ....runtime.plans import KV_SEGMENT
from ....schedules.compat import T
from ....schedules.cpu.softmax_state import SoftmaxState, merge_into
from ....schedules.cpu.spans import span
from ....schedules.emit import Buffer, Value, i64, let, serial, settle, store, when
from ....schedules.vector import LANES, const, exp, fma, lanes, splat
from .spec import AttentionSpec
from .variant import bounds


def store_query(
    spec: AttentionSpec, out: Buffer, sink_logits: Buffer | None, state: SoftmaxState, r: Value, row: Value, head: Value
) -> None:
    """out[row, head] = values / sum of weights, from the state over all segments of query r."""
    whole, tail = spec.value_dim // LANES, spec.value_dim % LANES
    inverse = const(1.0) / state.total_all[r, lanes(0)]
    if sink_logits is not None:  # one more weight in the sum, which has no value
        sink = splat(sink_logits[head])
        top = let("top", T.max(state.peak_all[r, lanes(0)], sink))
        factor = let("factor", exp(state.peak_all[r, lanes(0)] - top))
        inverse = factor / fma(state.total_all[r, lanes(0)], factor, exp(sink - top))
    inverse = let("inverse", inverse)
    column = let("column", head * spec.value_dim)
    # The fma adds +0, so that a row whose values cancel to -0 in one grouping and +0 in another has one result.
    with serial(whole, "d") as d:
        value = fma(state.acc_all[r, lanes(d * LANES)], inverse, const(0.0))
        store(out, (row, lanes(column + d * LANES)), value)
    if tail:
        last = whole * LANES
        store(state.acc_all, (r, lanes(last)), fma(state.acc_all[r, lanes(last)], inverse, const(0.0)))
        store(out, (row, span(column + last, tail)), state.acc_all[r, span(last, tail)])


def merge_row(
    spec: AttentionSpec,
    state: SoftmaxState,
    *,
    states: Buffer,
    plan: Buffer,
    positions: Buffer,
    out: Buffer,
    sink_logits: Buffer | None,
    row: Value,
    kv_head: Value,
) -> None:
    """Merge the states of one row and kv head in ascending order of segments, and store the result."""
    layout, columns = spec.layout, state.columns
    first, limit = bounds(spec, positions[row], plan[layout.limit + row])
    begin = let("begin", T.truncdiv(i64(first), i64(KV_SEGMENT)))
    end = let("end", T.truncdiv(i64(limit), i64(KV_SEGMENT)) + 1)
    base = let("base", T.cast(plan[layout.state + row], "int64"))
    extra = settle("extra", T.cast(T.Select(begin > 0, 1, 0), "int64")) if spec.sinks else T.int64(0)
    with serial(spec.sharing, "g") as g:
        head = let("head", kv_head * spec.sharing + g)
        with serial(end - begin + extra, "passed") as passed:
            segment = begin + passed - extra
            if spec.sinks:
                segment = settle("segment", T.Select(passed < extra, T.int64(0), segment))
            number = let("number", base + segment)
            peak = let("peak", splat(states[number, head, columns * LANES]))
            total = let("total", splat(states[number, head, columns * LANES + 1]))
            with when(passed == 0):
                store(state.peak_all, (g, lanes(0)), peak)
                store(state.total_all, (g, lanes(0)), total)
                with serial(columns, "d") as d:
                    store(state.acc_all, (g, lanes(d * LANES)), states[number, head, lanes(d * LANES)])
            with when(passed > 0):
                merge_into(state, g, peak, total, lambda d, n=number, h=head: states[n, h, lanes(d * LANES)])
        store_query(spec, out, sink_logits, state, g, row, head)
