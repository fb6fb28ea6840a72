"""FuseRopeAppend: norms, rotation and cache append of one attention become one kernel over the merged projection."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.ir_passes.dialect import kv_append_op, rms_norm_op, rope_append_op, rope_op
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
        both = emit(rope_append_op(y, table, plan, cache, heads=HEADS, interleaved=False, norm_eps=0.0, **CACHE))
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


NORMED = [*PARAMS, ("wq", [DIM], "float32"), ("wk", [DIM], "float32")]


def normed(q_groups=HEADS, k_groups=KV_HEADS, k_eps=1e-5, k_used_twice=False):
    """`before`, with q and k normalised head by head; groups 0 leave one out."""

    def body(emit, y, table, plan, cache, wq, wk):
        parts = emit(relax.op.split(y, [HEADS * DIM, (HEADS + KV_HEADS) * DIM], axis=1))
        q, k, v = (emit(relax.TupleGetItem(parts, i)) for i in range(3))
        raw = k
        if q_groups:
            q = emit(rms_norm_op(q, wq, eps=1e-5, groups=q_groups))
        if k_groups:
            k = emit(rms_norm_op(k, wk, eps=k_eps, groups=k_groups))
        q = emit(rope_op(q, table, heads=HEADS, head_dim=DIM, interleaved=False))
        k = emit(rope_op(k, table, heads=KV_HEADS, head_dim=DIM, interleaved=False))
        new = emit(kv_append_op(k, v, plan, cache, value_dim=DIM, **CACHE))
        return relax.Tuple([q, new, raw] if k_used_twice else [q, new])

    return function(NORMED, body, num_input=4)


def test_expected_with_norms():
    def body(emit, y, table, plan, cache, wq, wk):
        args = (y, table, plan, cache, wq, wk)
        both = emit(rope_append_op(*args, heads=HEADS, interleaved=False, norm_eps=1e-5, **CACHE))
        q = emit(relax.TupleGetItem(both, 1))
        return relax.Tuple([q, emit(relax.TupleGetItem(both, 0))])

    after, log = apply(FuseRopeAppend(), normed())
    assert_equal(after, function(NORMED, body, num_input=4))
    assert log.records[0].matched


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"k_groups": 0}, "only one of q and k is normalised"),
        ({"k_eps": 1e-6}, "q and k are normalised with different eps"),
        ({"q_groups": 2 * HEADS}, "q and k are not normalised head by head with one weight"),
        ({"k_used_twice": True}, "k, v or q before rotation is used elsewhere too"),
    ],
)
def test_must_not_fire_on_other_norms(change, reason):
    after, log = apply(FuseRopeAppend(), normed(**change))
    assert_equal(after, normed(**change))
    assert log.records[0].reason == reason


@pytest.mark.parametrize("norms", [False, True])
def test_numeric(norms):
    rng = np.random.default_rng(0)
    plan = np.zeros(LAYOUT.size(3), np.int32)
    build_plan(LAYOUT, plan, [PlanSequence(np.array([4, 1], np.int32), 12, 9)], rows_only=True)
    arrays = [
        normal(rng, 9, WIDTH),
        normal(rng, 9, DIM),
        plan,
        normal(rng, 5, LAYERS, KV_HEADS, 2 * PAGE * DIM, dtype="float16"),
    ]
    mod = normed() if norms else before()
    arrays += [normal(rng, DIM), normal(rng, DIM)] if norms else []
    after, _ = apply(FuseRopeAppend(), mod)
    for old, new in zip(run(mod, arrays), run(after, arrays), strict=True):
        np.testing.assert_array_equal(old, new)
