"""RecognizeLinears: products with a weight's transpose become linears."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.ir_passes.dialect import linear_op
from heddle.ir_passes.recognize_linears import RecognizeLinears, linears
from heddle.schedules.compat import relax
from tests.ir_tools import apply, assert_equal, function, normal, run

PARAMS = [
    ("x", ["b", "t", 20], "float32"),
    ("a.weight", [12, 20], "float32"),
    ("a.bias", [12], "float32"),
    ("c.weight", [7, 20], "float32"),
]
op = relax.op


def build(body, params=PARAMS):
    return function(params, body, num_input=1)


def before(swap=False, axes=None):
    def body(emit, x, w, b, c):
        product = emit(op.matmul(x, emit(op.permute_dims(w, axes))))
        first = emit(op.add(b, product) if swap else op.add(product, b))
        return relax.Tuple([first, emit(op.matmul(x, emit(op.permute_dims(c))))])

    return build(body)


def linear(x, w, *bias, site, rows="n"):
    return linear_op(x, w, *bias, site=site, axes=["out", "in"], epilogue=["bias"] * len(bias), rows=rows, scheme="")


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("axes", [None, [1, 0]])
def test_expected(swap, axes):
    def body(emit, x, w, b, c):
        batch, length, _ = x.ty.shape
        flat = emit(op.reshape(x, relax.ShapeExpr([batch * length, 20])))  # one matrix for both linears
        first = emit(linear(flat, w, b, site="a"))
        first = emit(op.reshape(first, relax.ShapeExpr([batch, length, 12])))
        second = emit(linear(flat, c, site="c"))
        return relax.Tuple([first, emit(op.reshape(second, relax.ShapeExpr([batch, length, 7])))])

    after, log = apply(RecognizeLinears(), before(swap, axes))
    assert_equal(after, build(body))
    assert [record.site for record in log.records if record.matched] == ["a", "c"]
    assert linears(before()) == {"a": "a.weight", "c": "c.weight"}


@pytest.mark.parametrize(("count", "rows"), [(1, "1"), (3, "4"), (8, "8"), (9, "n")])
def test_expected_row_classes(count, rows):
    params = [("x", [count, 20], "float32"), *PARAMS[1:]]
    after, _ = apply(RecognizeLinears(), build(lambda emit, x, w, b, c: op.matmul(x, emit(op.permute_dims(w))), params))
    assert_equal(after, build(lambda emit, x, w, b, c: linear(x, w, site="a", rows=rows), params))


def test_expected_types():
    def tied(emit, x, w, b, c):
        first = emit(op.matmul(x, emit(op.permute_dims(w))))
        second = emit(op.matmul(x, emit(op.permute_dims(c))))
        return relax.Tuple([first, second, emit(op.exp(c))])

    after, log = apply(RecognizeLinears("bfloat16"), build(tied))
    params = {str(p.name): str(p.ty.dtype) for p in after["main"].params}
    assert (params["a.weight"], params["c.weight"], params["a.bias"]) == ("bfloat16", "float32", "float32")
    assert any(r.site == "c.weight" and "other operators read it" in r.reason for r in log.records)


@pytest.mark.parametrize(
    ("body", "params", "reason"),
    [
        (lambda emit, x, w: op.matmul(x, w), [("x", ["n", 12], "float32"), ("w", [12, 20], "float32")], "transpose"),
        (
            lambda emit, x, w: op.matmul(x, emit(op.permute_dims(emit(op.exp(w))))),
            [("x", ["n", 20], "float32"), ("w", [12, 20], "float32")],
            "not the transpose of a matrix among the weights",
        ),
        (
            lambda emit, x, w: op.matmul(x, emit(op.permute_dims(w, [0, 2, 1]))),
            [("x", [3, "n", 20], "float32"), ("w", [3, 12, 20], "float32")],
            "not the transpose of a matrix among the weights",
        ),
        (
            lambda emit, x, w: op.matmul(x, emit(op.permute_dims(w, [0, 1]))),
            [("x", ["n", 12], "float32"), ("w", [12, 20], "float32")],
            "not transposed",
        ),
        (
            lambda emit, x, w: op.matmul(x, emit(op.permute_dims(w))),
            [("x", ["n", 20], "float64"), ("w", [12, 20], "float64")],
            "not of float32",
        ),
    ],
)
def test_must_not_fire(body, params, reason):
    mod = build(body, params)
    after, log = apply(RecognizeLinears(), mod)
    assert_equal(after, mod)
    assert [reason in record.reason for record in log.records] == [True]
    assert linears(mod) == {}


def test_must_not_fire_on_biases_of_other_shapes_and_products_that_are_needed():
    def body(emit, x, w, b, c):
        product = emit(op.matmul(x, emit(op.permute_dims(w))))
        return relax.Tuple([product, emit(op.add(product, b))])

    after, _ = apply(RecognizeLinears(), build(body))
    calls = [b.value for b in after["main"].body.blocks[0].bindings]
    assert [list(map(str, call.attrs["epilogue"])) for call in calls if linear_op.matches(call)] == [[]]
    wide = [*PARAMS[:2], ("b", [3, 12], "float32"), PARAMS[3]]
    after, _ = apply(
        RecognizeLinears(),
        build(
            lambda emit, x, w, b, c: op.add(emit(op.matmul(x, emit(op.permute_dims(w)))), b),
            [("x", [2, 3, 20], "float32"), *wide[1:]],
        ),
    )
    calls = [b.value for b in after["main"].body.blocks[0].bindings]
    assert [list(map(str, call.attrs["epilogue"])) for call in calls if linear_op.matches(call)] == [[]]


def test_numeric():
    rng = np.random.default_rng(0)
    arrays = [normal(rng, 2, 5, 20), normal(rng, 12, 20), normal(rng, 12), normal(rng, 7, 20)]
    after, _ = apply(RecognizeLinears(), before())
    for new, old in zip(run(after, arrays), run(before(), arrays), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)
