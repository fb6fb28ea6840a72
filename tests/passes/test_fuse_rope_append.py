"""FuseRopeAppend: rotation and cache append of one attention become one kernel over the merged projection."""

from __future__ import annotations

import numpy as np

from heddle.ir_passes.dialect import kv_append_op, rope_append_op, rope_op
from heddle.ir_passes.fuse_rope_append import FuseRopeAppend
from heddle.runtime.plans import PAGE, PlanLayout, PlanSequence, build_plan
from heddle.schedules.compat import relax
from tests.ir_tools import apply, assert_equal, function, normal, run

HEADS, KV_HEADS, DIM, LAYERS = 4, 2, 16, 3
LAYOUT = PlanLayout(32, 4)
WIDTH = (HEADS + 2 * KV_HEADS) * DIM
PARAMS = [
    ("y", ["n", WIDTH], "float32"),
    ("table", ["n", DIM], "float32"),
    ("plan", ["p"], "int32"),
    ("cache", ["pages", LAYERS, KV_HEADS, 2 * PAGE * DIM], "float16"),
]
CACHE = {"layer": 1, "kv_heads": KV_HEADS, "head_dim": DIM, "max_tokens": 32, "max_seqs": 4}


def before(q_interleaved=False, order=(0, 1, 2), value_dim=DIM):
    def body(emit, y, table, plan, cache):
        cuts = [HEADS * DIM, (HEADS + KV_HEADS) * DIM]
        parts = emit(relax.op.split(y, cuts, axis=1))
        q, k, v = (emit(relax.TupleGetItem(parts, i)) for i in order)
        q = emit(rope_op(q, table, heads=HEADS, head_dim=DIM, interleaved=q_interleaved))
        k = emit(rope_op(k, table, heads=KV_HEADS, head_dim=DIM, interleaved=False))
        return relax.Tuple([q, emit(kv_append_op(k, v, plan, cache, value_dim=value_dim, **CACHE))])

    return function(PARAMS, body, num_input=4)


def test_expected():
    def body(emit, y, table, plan, cache):
        both = emit(rope_append_op(y, table, plan, cache, heads=HEADS, interleaved=False, **CACHE))
        q = emit(relax.TupleGetItem(both, 1))
        return relax.Tuple([q, emit(relax.TupleGetItem(both, 0))])

    after, log = apply(FuseRopeAppend(), before())
    assert_equal(after, function(PARAMS, body, num_input=4))
    assert log.records[0].matched


def test_must_not_fire_on_different_rotations():
    after, log = apply(FuseRopeAppend(), before(q_interleaved=True))
    assert_equal(after, before(q_interleaved=True))
    assert log.records[0].reason == "q and k are rotated differently"


def test_must_not_fire_on_another_order_of_parts():
    after, log = apply(FuseRopeAppend(), before(order=(0, 2, 1)))
    assert_equal(after, before(order=(0, 2, 1)))
    assert log.records[0].reason == "the projection's parts are not q, k and v in this order"


def test_must_not_fire_on_heads_of_two_sizes():
    after, log = apply(FuseRopeAppend(), before(value_dim=DIM - 1))
    assert_equal(after, before(value_dim=DIM - 1))
    assert log.records[0].reason == "heads of k and v differ in size"


def test_numeric():
    rng = np.random.default_rng(0)
    plan = np.zeros(LAYOUT.size(3), np.int32)
    build_plan(LAYOUT, plan, [PlanSequence(np.array([4, 1], np.int32), 12, 9)], rows_only=True)
    arrays = [
        normal(rng, 9, WIDTH),
        normal(rng, 9, DIM),
        plan,
        normal(rng, 5, LAYERS, KV_HEADS, 2 * PAGE * DIM, dtype="float16"),
    ]
    after, _ = apply(FuseRopeAppend(), before())
    for old, new in zip(run(before(), arrays), run(after, arrays), strict=True):
        np.testing.assert_array_equal(old, new)
