"""MergeLinears: linears of one input become one linear and a split."""

from __future__ import annotations

import numpy as np

from heddle.ir_passes.dialect import linear_op
from heddle.ir_passes.merge_linears import MergeLinears
from heddle.schedules.compat import relax
from tests.ir_tools import apply, assert_equal, function, normal, run

PARAMS = [("x", ["n", 40], "float32"), ("wq", [64, 40], "float16"), ("wk", [24, 40], "float16")]
ATTRS = {"axes": ["heads", "hidden"], "epilogue": [], "rows": "n", "scheme": ""}


def before(params=PARAMS):
    def body(emit, x, wq, wk):
        q = emit(linear_op(x, wq, site="attn.q", **ATTRS))
        k = emit(linear_op(x, wk, site="attn.k", **ATTRS))
        return relax.Tuple([q, k])

    return function(params, body, num_input=1)


def test_expected():
    def body(emit, x, wq, wk):
        w = emit(relax.op.concat([wq, wk], axis=0))
        y = emit(linear_op(x, w, site="attn.q+k", **ATTRS))
        parts = emit(relax.op.split(y, [64], axis=1))
        q = emit(relax.TupleGetItem(parts, 0))
        k = emit(relax.TupleGetItem(parts, 1))
        return relax.Tuple([q, k])

    after, log = apply(MergeLinears(), before())
    assert_equal(after, function(PARAMS, body, num_input=1))
    assert [r.site for r in log.records if r.matched] == ["attn.q+attn.k"]


def test_must_not_fire_on_different_dtypes():
    mixed = [*PARAMS[:2], ("wk", [24, 40], "float32")]
    after, log = apply(MergeLinears(), before(mixed))
    assert_equal(after, before(mixed))
    assert "different dtypes: float16, float32" in log.records[0].reason


def test_must_not_fire_on_a_single_linear():
    def body(emit, x, w):
        return linear_op(x, w, site="o", **ATTRS)

    alone = function(PARAMS[:2], body, num_input=1)
    after, log = apply(MergeLinears(), alone)
    assert_equal(after, alone)
    assert log.records[0].reason == "no other linear of its module and scheme reads the same input"


def test_must_not_fire_across_modules():
    """Attention and feed-forward layer of a parallel residual read the same rows."""

    def body(emit, x, wq, wk):
        q = emit(linear_op(x, wq, site="layers.0.attn.q", **ATTRS))
        return relax.Tuple([q, emit(linear_op(x, wk, site="layers.0.mlp.up", **ATTRS))])

    apart = function(PARAMS, body, num_input=1)
    after, log = apply(MergeLinears(), apart)
    assert_equal(after, apart)
    assert {r.reason for r in log.records} == {"no other linear of its module and scheme reads the same input"}


def test_numeric():
    rng = np.random.default_rng(0)
    arrays = [normal(rng, 9, 40), normal(rng, 64, 40, dtype="float16"), normal(rng, 24, 40, dtype="float16")]
    after, _ = apply(MergeLinears(), before())
    for old, new in zip(run(before(), arrays), run(after, arrays), strict=True):
        np.testing.assert_array_equal(old, new)  # outputs are independent chains: not even the last bit moves


def quantized(q, k):
    def body(emit, x, wq, wk):
        first = emit(linear_op(x, wq, site="attn.q", **(ATTRS | {"scheme": q})))
        return relax.Tuple([first, emit(linear_op(x, wk, site="attn.k", **(ATTRS | {"scheme": k})))])

    return function(PARAMS, body, num_input=1)


def test_linears_of_one_scheme_merge():
    after, log = apply(MergeLinears(), quantized("w8a8-pc", "w8a8-pc"))
    calls = [b.value for b in after["main"].body.blocks[0].bindings if linear_op.matches(b.value)]
    assert [(str(call.attrs["scheme"]), str(call.attrs["site"])) for call in calls] == [("w8a8-pc", "attn.q+k")]
    assert [r.matched for r in log.records] == [True]


def test_must_not_fire_on_different_schemes():
    for q, k in (("w8a8-pc", "w8a16-pc"), ("w8a8-pc", "")):
        after, log = apply(MergeLinears(), quantized(q, k))
        assert_equal(after, quantized(q, k))
        assert {r.reason for r in log.records} == {"no other linear of its module and scheme reads the same input"}
