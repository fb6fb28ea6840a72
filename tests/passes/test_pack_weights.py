"""PackWeights: weights are stored in the layout that their kernels stream, a tied table once."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.ir_passes.dialect import (
    NO_NORM,
    add_op,
    embedding_op,
    linear_op,
    pack_rows,
    pack_weight,
    packed_linear,
    pad_vector,
)
from heddle.ir_passes.pack_weights import PackWeights
from heddle.schedules.catalog import row_tile
from heddle.schedules.compat import ir, relax
from heddle.schedules.target import resolve_target
from tests.ir_tools import apply, assert_equal, function, normal, run

PARAMS = [("x", ["n", 40], "float32"), ("w", [70, 40], "float16"), ("b", [70], "float32")]
TABLE = [("ids", ["n"], "int32"), ("w", [70, 40], "float16")]
COMMON = {"site": "s", "axes": ["ffn", "hidden"], "epilogue": ["bias"]}
EMBED = {"hidden": 40, "table_dtype": "float16", "site": "embed", "scheme": ""}


def linear(rows, scheme=""):
    return function(PARAMS, lambda emit, x, w, b: linear_op(x, w, b, rows=rows, scheme=scheme, **COMMON), num_input=1)


def embed():
    return function(
        TABLE, lambda emit, ids, w: embedding_op(ids, w, layout="logical", **EMBED), num_input=1, name="embed"
    )


@pytest.mark.parametrize("rows", ["1", "8", "n"])
def test_expected(rows):
    def body(emit, x, w, b):
        n = x.ty.shape[0]
        if rows == "n":
            x = emit(pack_rows(x, **NO_NORM, tile=row_tile(resolve_target())))
        bias = emit(pad_vector(b, parts=1, lanes=32))
        weight = emit(pack_weight(w, layout="tile32", parts=1))
        sizes = {"in_features": 40, "out_features": 70, "weight_dtype": "float16"}
        return packed_linear(x, weight, bias, relax.ShapeExpr([n]), rows=rows, **sizes, **COMMON)

    after, log = apply(PackWeights(), linear(rows))
    assert_equal(after, function(PARAMS, body, num_input=1))
    assert log.records[0].matched


@pytest.mark.parametrize(("tied", "layout"), [(True, "tile32"), (False, "rows")])
def test_expected_of_a_table(tied, layout):
    def body(emit, ids, w):
        return embedding_op(ids, emit(pack_weight(w, layout=layout, parts=1)), layout=layout, **EMBED)

    mod = embed()
    if tied:
        mod.update_func(ir.GlobalVar("main"), linear("n")["main"])
    after, _ = apply(PackWeights(), mod)
    expected = function(TABLE, body, num_input=1, name="embed")
    assert_equal(ir.IRModule({"embed": after["embed"]}), expected)


def test_must_not_fire_on_ops_without_weights():
    plain = function(PARAMS[:1], lambda emit, x: add_op(x, x), num_input=1)
    after, log = apply(PackWeights(), plain)
    assert_equal(after, plain)
    assert log.records == []


def test_numeric():
    rng = np.random.default_rng(0)
    arrays = [normal(rng, 9, 40), normal(rng, 70, 40, dtype="float16"), normal(rng, 70)]
    after, _ = apply(PackWeights(), linear("n"))
    np.testing.assert_array_equal(run(linear("n"), arrays), run(after, arrays))
    reference = arrays[0].astype(np.float64) @ arrays[1].astype(np.float64).T + arrays[2]
    np.testing.assert_allclose(run(after, arrays), reference, rtol=0, atol=2e-5 * np.abs(reference).max())
