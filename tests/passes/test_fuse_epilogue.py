"""FuseEpilogue: residual sums and silu(gate) * up move into the linear."""

from __future__ import annotations

import numpy as np

from heddle.ir_passes.dialect import add_op, linear_op, silu_mul_op
from heddle.ir_passes.fuse_epilogue import FuseEpilogue
from heddle.schedules.compat import relax
from tests.ir_tools import apply, assert_equal, function, normal, run

PARAMS = [
    ("x", ["n", 40], "float32"),
    ("h", ["n", 24], "float32"),
    ("w", [40, 24], "float32"),
    ("gu", [96, 24], "float32"),
]
ATTRS = {"site": "s", "axes": ["hidden", "ffn"], "rows": "n", "scheme": ""}


def gate_up(emit, h, gu):
    parts = emit(relax.op.split(emit(linear_op(h, gu, epilogue=[], **ATTRS)), 2, axis=1))
    return emit(relax.TupleGetItem(parts, 0)), emit(relax.TupleGetItem(parts, 1))


def before():
    def body(emit, x, h, w, gu):
        gate, up = gate_up(emit, h, gu)
        gated = emit(silu_mul_op(gate, up))
        y = emit(add_op(x, emit(linear_op(h, w, epilogue=[], **ATTRS))))
        return relax.Tuple([y, gated])

    return function(PARAMS, body, num_input=2)


def test_expected():
    def body(emit, x, h, w, gu):
        gated = emit(linear_op(h, gu, epilogue=["silu_mul"], **ATTRS))
        y = emit(linear_op(h, w, x, epilogue=["residual"], **ATTRS))
        return relax.Tuple([y, gated])

    after, log = apply(FuseEpilogue(), before())
    assert_equal(after, function(PARAMS, body, num_input=2))
    assert [r.site for r in log.records] == ["s: silu_mul", "s: residual"]


def test_must_not_fire_where_the_linear_is_used_twice():
    def body(emit, x, h, w, gu):
        y = emit(linear_op(h, w, epilogue=[], **ATTRS))
        return relax.Tuple([emit(add_op(x, y)), y])

    twice = function(PARAMS, body, num_input=2)
    after, log = apply(FuseEpilogue(), twice)
    assert_equal(after, twice)
    assert log.records[0].reason == "the linear's result is used elsewhere too"


def test_must_not_fire_on_swapped_halves():
    def body(emit, x, h, w, gu):
        gate, up = gate_up(emit, h, gu)
        return silu_mul_op(up, gate)

    swapped = function(PARAMS, body, num_input=2)
    after, log = apply(FuseEpilogue(), swapped)
    assert_equal(after, swapped)
    assert log.records[0].reason == "gate and up are not the first and second part of one linear"


def test_must_not_fire_on_a_plain_sum():
    def body(emit, x, h, w, gu):
        return add_op(x, x)

    plain = function(PARAMS, body, num_input=2)
    after, log = apply(FuseEpilogue(), plain)
    assert_equal(after, plain)
    assert log.records[0].reason == "neither operand is a linear"


def test_numeric():
    rng = np.random.default_rng(0)
    arrays = [normal(rng, 9, 40), normal(rng, 9, 24), normal(rng, 40, 24), normal(rng, 96, 24)]
    after, _ = apply(FuseEpilogue(), before())
    for old, new in zip(run(before(), arrays), run(after, arrays), strict=True):
        np.testing.assert_array_equal(old, new)
