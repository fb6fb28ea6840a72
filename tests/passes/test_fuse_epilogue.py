"""FuseEpilogue: residual sums, scales, gates and activation functions move into the linear."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.ir_passes.dialect import activation_op, add_op, gated_op, linear_op, scale_op
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
        gated = emit(gated_op(gate, up, kind="silu"))
        y = emit(add_op(x, emit(linear_op(h, w, epilogue=[], **ATTRS))))
        return relax.Tuple([y, gated])

    return function(PARAMS, body, num_input=2)


def test_expected():
    def body(emit, x, h, w, gu):
        gated = emit(linear_op(h, gu, epilogue=["gated:silu"], **ATTRS))
        y = emit(linear_op(h, w, x, epilogue=["residual"], **ATTRS))
        return relax.Tuple([y, gated])

    after, log = apply(FuseEpilogue(), before())
    assert_equal(after, function(PARAMS, body, num_input=2))
    assert [r.site for r in log.records] == ["s: gated:silu", "s: residual"]


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
        return gated_op(up, gate, kind="silu")

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


def steps():
    """A feed-forward layer of one activation function, and a residual sum with a scale (Granite)."""

    def body(emit, x, h, w, gu):
        active = emit(activation_op(emit(linear_op(h, gu, epilogue=[], **ATTRS)), kind="gelu_tanh"))
        scaled = emit(scale_op(emit(linear_op(h, w, epilogue=[], **ATTRS)), factor=0.22))
        return relax.Tuple([active, emit(add_op(scaled, x))])

    return function(PARAMS, body, num_input=2)


def test_expected_of_activation_and_scaled_residual():
    def body(emit, x, h, w, gu):
        active = emit(linear_op(h, gu, epilogue=["gelu_tanh"], **ATTRS))
        return relax.Tuple([active, emit(linear_op(h, w, x, epilogue=["scale:0.22", "residual"], **ATTRS))])

    after, log = apply(FuseEpilogue(), steps())
    assert_equal(after, function(PARAMS, body, num_input=2))
    assert [r.site for r in log.records] == ["s: gelu_tanh", "s: scale:0.22", "s: residual"]


def test_must_not_fire_after_an_item_that_comes_later():
    def body(emit, x, h, w, gu):
        y = emit(add_op(emit(linear_op(h, w, epilogue=[], **ATTRS)), x))
        return scale_op(emit(activation_op(y, kind="relu")), factor=2.0)

    def expected(emit, x, h, w, gu):
        y = emit(linear_op(h, w, x, epilogue=["residual"], **ATTRS))
        return scale_op(emit(activation_op(y, kind="relu")), factor=2.0)

    after, log = apply(FuseEpilogue(), function(PARAMS, body, num_input=2))
    assert_equal(after, function(PARAMS, expected, num_input=2))
    reasons = [r.reason for r in log.records if not r.matched]
    assert reasons == ["the linear already ends in residual", "the operand is not a linear"]


def test_must_not_fire_on_an_activation_of_anything_else():
    def body(emit, x, h, w, gu):
        return activation_op(x, kind="gelu")

    plain = function(PARAMS, body, num_input=2)
    after, log = apply(FuseEpilogue(), plain)
    assert_equal(after, plain)
    assert log.records[0].reason == "the operand is not a linear"


@pytest.mark.parametrize("made", [before, steps])
def test_numeric(made):
    rng = np.random.default_rng(0)
    arrays = [normal(rng, 9, 40), normal(rng, 9, 24), normal(rng, 40, 24), normal(rng, 96, 24)]
    after, _ = apply(FuseEpilogue(), made())
    for old, new in zip(run(made(), arrays), run(after, arrays), strict=True):
        np.testing.assert_array_equal(old, new)
