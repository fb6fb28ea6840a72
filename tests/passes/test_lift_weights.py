"""LiftWeights: weight-only expressions become parameters with a recipe."""

from __future__ import annotations

import numpy as np

from heddle.ir_passes.dialect import add_op, embedding_op, pack_weight
from heddle.ir_passes.lift_weights import LiftWeights, evaluate, lifted_weights
from heddle.schedules.compat import relax
from tests.ir_tools import apply, assert_equal, function, normal, run

ATTRS = {"layout": "tile32", "hidden": 40, "table_dtype": "float16", "site": "embed", "scheme": ""}
PARAMS = [("ids", ["n"], "int32"), ("a.q.weight", [70, 40], "float16"), ("a.k.weight", [30, 40], "float16")]


def before():
    def body(emit, ids, q, k):
        merged = emit(relax.op.concat([q, k], axis=0))
        return embedding_op(ids, emit(pack_weight(merged, layout="tile32", parts=1)), **ATTRS)

    return function(PARAMS, body, num_input=1)


def test_expected():
    after, log = apply(LiftWeights(), before())
    params = [PARAMS[0], ("a.q+k.weight.tile32", [4, 40, 32], "float16")]
    assert_equal(after, function(params, lambda emit, ids, w: embedding_op(ids, w, **ATTRS), num_input=1))
    assert [str(p.name) for p in after["main"].params] == ["ids", "a.q+k.weight.tile32"]
    assert [r.site for r in log.records if r.matched] == ["a.q+k.weight.tile32"]


SUM_PARAMS = [("ids", ["n"], "int32"), ("positions.weight", [70, 40], "float32"), ("types.weight", [1, 40], "float32")]
SUM_ATTRS = ATTRS | {"layout": "rows", "table_dtype": "float32"}


def summed():
    """A table of positions with a row that is added to all of them, as BERT has it."""

    def body(emit, ids, positions, types):
        return embedding_op(
            ids, emit(pack_weight(emit(relax.op.add(positions, types)), layout="rows", parts=1)), **SUM_ATTRS
        )

    return function(SUM_PARAMS, body, num_input=1)


def test_expected_of_a_sum():
    after, _ = apply(LiftWeights(), summed())
    params = [SUM_PARAMS[0], ("positions+types.weight.rows", [70, 40], "float32")]
    assert_equal(after, function(params, lambda emit, ids, w: embedding_op(ids, w, **SUM_ATTRS), num_input=1))
    rng = np.random.default_rng(1)
    weights = {"positions.weight": normal(rng, 70, 40), "types.weight": normal(rng, 1, 40)}
    (weight,) = lifted_weights(after).values()
    value = evaluate(weight.recipe, weights.__getitem__)
    np.testing.assert_array_equal(value, weights["positions.weight"] + weights["types.weight"])
    assert (value.dtype.name, value.shape) == (weight.dtype, weight.shape)


def test_must_not_fire_on_activations_or_plain_weights():
    params = [("x", ["n", 40], "float32"), ("y", ["n", 40], "float32"), ("w", [30, 40], "float32")]

    def body(emit, x, y, w):
        both = emit(relax.op.concat([x, w], axis=0))  # x is an input: not weight-only
        return relax.Tuple([both, emit(add_op(y, y))])

    plain = function(params, body, num_input=2)
    after, log = apply(LiftWeights(), plain)
    assert_equal(after, plain)
    assert [(r.site, r.reason) for r in log.records] == [("w", "stored as it is")]


def test_numeric():
    rng = np.random.default_rng(0)
    weights = {"a.q.weight": normal(rng, 70, 40, dtype="float16"), "a.k.weight": normal(rng, 30, 40, dtype="float16")}
    ids = np.array([99, 0, 71, 69], np.int32)
    after, _ = apply(LiftWeights(), before())
    lifted = lifted_weights(after)
    values = [evaluate(weight.recipe, weights.__getitem__) for weight in lifted.values()]
    assert [(v.dtype.name, v.shape) for v in values] == [(w.dtype, w.shape) for w in lifted.values()]
    np.testing.assert_array_equal(run(before(), [ids, *weights.values()]), run(after, [ids, *values]))
