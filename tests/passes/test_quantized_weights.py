"""Quantized weights on their way through the passes: packed, lifted to parameters, RMSNorm fused into the codes of x."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.compiler.quant import dequantize, quantize
from heddle.ir_passes.dialect import (
    NO_NORM,
    add_op,
    embedding_op,
    linear_op,
    pad_vector,
    quant_linear,
    quant_pack,
    rms_norm_op,
)
from heddle.ir_passes.dialect.quantized_weights import quant_embedding_op, quantize_weight
from heddle.ir_passes.fuse_norm import FuseNorm
from heddle.ir_passes.lift_weights import LiftWeights, evaluate, lifted_weights
from heddle.ir_passes.pack_weights import PackWeights
from heddle.schedules.catalog import row_tile
from heddle.schedules.compat import ir, relax
from heddle.schedules.cpu import quant_reference
from heddle.schedules.layouts.quantized import QuantizedMatrix
from heddle.schedules.layouts.scheme import scheme, weight_format
from heddle.schedules.target import resolve_target
from tests.ir_tools import apply, assert_equal, function, normal, run

K, N = 64, 70
PARAMS = [("x", ["n", K], "float32"), ("w", [N, K], "float16"), ("b", [N], "float32")]
TWO = [("x", ["n", K], "float32"), ("w1", [N, K], "float16"), ("w2", [48, K], "float16")]
TABLE = [("ids", ["n"], "int32"), ("w", [N, K], "float16")]
COMMON = {"site": "s", "axes": ["ffn", "hidden"]}
TILES = {"1": 1, "4": 4, "8": 8, "n": row_tile(resolve_target())}
ARRAYS = {
    "w4-g32": ("codes", "scales"),
    "w8-pc": ("codes", "scales"),
    "w4-g32-2l-asym": ("codes", "scales", "zeros", "channels"),
    "w4-g32-min": ("codes", "scales", "mins"),
}


def codes_of(emit, x, activation="int8", group=32, rows="n", minima=False):
    factor = -8 if group else -128  # minus the zero of 4-bit codes in groups, and of 8-bit ones per channel
    factor = 1 if minima else factor  # the sums themselves
    coding = {"activation": activation, "group": group, "factor": factor}
    packed = emit(quant_pack(x, **NO_NORM, tile=TILES[rows], **coding))
    return [emit(relax.TupleGetItem(packed, i)) for i in range(3)]


def encoded(emit, w, fmt, parts=1):
    return [emit(quantize_weight(w, format=fmt, parts=parts, array=array)) for array in ARRAYS[fmt]]


def linear(rows, scheme, epilogue=("bias",)):
    def body(emit, x, w, *b):
        return linear_op(x, w, *b, rows=rows, scheme=scheme, epilogue=list(epilogue), **COMMON)

    return function(PARAMS if "bias" in epilogue else PARAMS[:2], body, num_input=1)


# --------------------------------------------------------------------------------------------------------- PackWeights
@pytest.mark.parametrize("rows", ["1", "8", "n"])
@pytest.mark.parametrize(
    ("name", "fmt", "activation", "group"),
    [
        ("w4a8-g32", "w4-g32", "int8", 32),
        ("w8a16-pc", "w8-pc", "limbs", 0),
        ("w4a16-g32-2l-asym-f32", "w4-g32-2l-asym", "", 0),
        ("w4a8-g32-min", "w4-g32-min", "int8", 32),
    ],
)
def test_expected_of_a_linear(rows, name, fmt, activation, group):
    def body(emit, x, w, b):
        n = x.ty.shape[0]
        codes = (activation, group, rows, fmt.endswith("min"))
        activations = codes_of(emit, x, *codes) if activation else [x]  # float32 needs no codes
        weights = encoded(emit, w, fmt)
        bias = emit(pad_vector(b, parts=1, lanes=16))
        sizes = {"in_features": K, "out_features": N, "epilogue": ["bias"]}
        return quant_linear(
            *activations, *weights, bias, relax.ShapeExpr([n]), rows=rows, scheme=name, **sizes, **COMMON
        )

    after, log = apply(PackWeights(), linear(rows, name))
    assert_equal(after, function(PARAMS, body, num_input=1))
    assert [r.site for r in log.records if r.matched] == [f"s: {name}"]


def two_linears(first, second):
    def body(emit, x, w1, w2):
        y1 = emit(linear_op(x, w1, rows="n", scheme=first, epilogue=[], **COMMON))
        return relax.Tuple([y1, emit(linear_op(x, w2, rows="n", scheme=second, epilogue=[], **COMMON))])

    return function(TWO, body, num_input=1)


@pytest.mark.parametrize(
    ("first", "second", "packs"),
    [
        ("w4a8-g32", "w4a8-g32", 1),
        ("w4a8-g32", "w8a8-g32", 2),  # sums times another zero
        ("w4a8-g32", "w8a8-pc", 2),  # the sums are those of other groups
        ("w4a8-g32", "w4a16-g32", 2),
        ("w4a16-g32-f32", "w4a8-g32", 1),
        ("w4a16-g32-f32", "", 0),
    ],
)
def test_linears_share_codes_where_they_agree(first, second, packs):
    after, _ = apply(PackWeights(), two_linears(first, second))
    calls = [binding.value for binding in after["main"].body.blocks[0].bindings]
    assert sum(quant_pack.matches(call) for call in calls) == packs
    assert sum(quant_linear.matches(call) for call in calls) == bool(first) + bool(second)


def test_gate_and_up_are_two_parts():
    after, _ = apply(PackWeights(), linear("1", "w4a8-g32", ("gated:silu",)))
    calls = [binding.value for binding in after["main"].body.blocks[0].bindings]
    (made,) = [call for call in calls if quant_linear.matches(call)]
    assert int(made.attrs["out_features"]) == N // 2
    shapes = [tuple(int(d) for d in call.ty.shape) for call in calls if quantize_weight.matches(call)]
    assert shapes == [(6, K // 32, 4, 64), (6, K // 32, 16)], "35 channels of each part are 3 tiles"


def embed(scheme):
    def body(emit, ids, w):
        return embedding_op(ids, w, layout="logical", hidden=K, table_dtype="float16", site="embed", scheme=scheme)

    return function(TABLE, body, num_input=1, name="embed")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("fmt", ["w8-pc", "w4-g32-2l-asym"])
def test_expected_of_a_table(tied, fmt):
    """The layout of codes is the same whether a head reads them too."""

    def body(emit, ids, w):
        return quant_embedding_op(ids, *encoded(emit, w, fmt), hidden=K, format=fmt, site="embed")

    name = fmt.replace("-", "a8-", 1)
    mod = embed(name)
    if tied:
        mod.update_func(ir.GlobalVar("main"), linear("n", name)["main"])
    after, log = apply(PackWeights(), mod)
    assert_equal(ir.IRModule({"embed": after["embed"]}), function(TABLE, body, num_input=1, name="embed"))
    assert f"embed: {name}" in [r.site for r in log.records if r.matched]


@pytest.mark.parametrize(("head", "layout"), [("w8a8-pc", "rows"), ("", "tile32")])
def test_an_unquantized_table_follows_unquantized_heads_only(head, layout):
    mod = embed("")
    mod.update_func(ir.GlobalVar("main"), linear("n", head)["main"])
    after, _ = apply(PackWeights(), mod)
    (call,) = [b.value for b in after["embed"].body.blocks[0].bindings if embedding_op.matches(b.value)]
    assert str(call.attrs["layout"]) == layout


@pytest.mark.parametrize("rows", ["1", "8", "n"])
@pytest.mark.parametrize("name", ["w4a8-g32", "w8a16-pc", "w4a8-g32-2l", "w8a8-g32-ag-asym", "w4a16-g64-f32"])
def test_numeric(rows, name):
    """The packed program, its weights lifted and encoded, has the bits of the reference on what the encoder made."""
    rng = np.random.default_rng(0)
    n = 1 if rows == "1" else 7
    weights = {"w": normal(rng, N, K, dtype="float16"), "b": normal(rng, N)}
    x, found = normal(rng, n, K), scheme(name)
    arrays = quantize(weights["w"], found.weight)
    lifted, _ = apply(LiftWeights(), apply(PackWeights(), linear(rows, name))[0])
    values = [
        evaluate(w.recipe, weights.__getitem__, lambda recipe: arrays[recipe["attrs"]["array"]])
        for w in lifted_weights(lifted).values()
    ]
    matrix = QuantizedMatrix.unpack(found.weight, arrays, N)
    expected = quant_reference.linear(x, matrix, found.activation, weights["b"])
    np.testing.assert_array_equal(run(lifted, [x, *values]), expected)


# ------------------------------------------------------------------------------------------------------------ FuseNorm
NORMED = [("x", ["n", K], "float32"), ("g", [K], "float32")]
PACK = {"activation": "int8", "group": 32, "factor": -8, "tile": 8}


def normed():
    return function(
        NORMED,
        lambda emit, x, g: quant_pack(emit(rms_norm_op(x, g, eps=1e-5, groups=1)), **NO_NORM, **PACK),
        num_input=1,
    )


def test_a_norm_moves_into_the_codes():
    after, log = apply(FuseNorm(), normed())
    assert_equal(
        after, function(NORMED, lambda emit, x, g: quant_pack(x, g, norm="rms", norm_eps=1e-5, **PACK), num_input=1)
    )
    assert [r.site for r in log.records if r.matched]
    rng = np.random.default_rng(0)
    arrays = [normal(rng, 13, K), normal(rng, K)]
    for fused, apart in zip(run(after, arrays), run(normed(), arrays), strict=True):
        np.testing.assert_array_equal(fused, apart)


@pytest.mark.parametrize("other", ["residual", "codes"])
def test_a_norm_that_others_read_stays(other):
    def body(emit, x, g):
        h = emit(rms_norm_op(x, g, eps=1e-5, groups=1))
        first = emit(quant_pack(h, **NO_NORM, **PACK))
        second = add_op(x, h) if other == "residual" else quant_pack(h, **NO_NORM, **(PACK | {"activation": "limbs"}))
        return relax.Tuple([first, emit(second)])

    plain = function(NORMED, body, num_input=1)
    after, log = apply(FuseNorm(), plain)
    assert_equal(after, plain)
    assert {r.reason for r in log.records} == {"the normalised rows are used elsewhere too"}


# --------------------------------------------------------------------------------------------------------- LiftWeights
def test_quantized_weights_become_parameters():
    params = [("x", ["n", K], "float32"), ("a.q.weight", [48, K], "float16"), ("a.k.weight", [N, K], "float16")]

    def body(emit, x, q, k):
        merged = emit(relax.op.concat([q, k], axis=0))
        weights = encoded(emit, merged, "w4-g32-2l-asym")
        sizes = {"in_features": K, "out_features": 48 + N, "epilogue": []}
        shape = relax.ShapeExpr([x.ty.shape[0]])
        return quant_linear(x, *weights, shape, rows="8", scheme="w4a16-g32-2l-asym-f32", **sizes, **COMMON)

    after, log = apply(LiftWeights(), function(params, body, num_input=1))
    lifted = lifted_weights(after)
    fmt, base = weight_format("w4-g32-2l-asym"), "a.q+k.weight.w4-g32-2l-asym"
    assert list(lifted) == [f"{base}.{array}" for array in ("codes", "scales", "zeros", "channels")]
    assert sorted(r.site for r in log.records if r.matched) == sorted(lifted)
    rng = np.random.default_rng(0)
    logical = {name: normal(rng, *shape, dtype="float16") for name, shape, _ in params[1:]}
    asked = []

    def encoder(recipe):
        asked.append((recipe["op"], recipe["attrs"]["array"], recipe["attrs"]["format"], recipe["attrs"]["parts"]))
        (source,) = recipe["args"]
        return quantize(evaluate(source, logical.__getitem__), fmt)[recipe["attrs"]["array"]]

    values = {name: evaluate(w.recipe, logical.__getitem__, encoder) for name, w in lifted.items()}
    assert asked == [(quantize_weight.name, array, fmt.name, 1) for array in ("codes", "scales", "zeros", "channels")]
    assert [(v.dtype.name, v.shape) for v in values.values()] == [(w.dtype, w.shape) for w in lifted.values()]
    x = normal(rng, 3, K)
    whole = np.concatenate(list(logical.values()))
    arrays = {name.rpartition(".")[2]: value for name, value in values.items()}
    decoded = dequantize(arrays, fmt, len(whole)).astype(np.float64)
    np.testing.assert_allclose(run(after, [x, *values.values()]), x @ decoded.T, rtol=0, atol=2e-5)
    assert np.abs(decoded - whole).max() < 0.5


def test_what_depends_on_an_input_has_no_kernel():
    """A weight that is computed in the step cannot be encoded: legalization says so."""
    params = [("w", [48, K], "float32")]
    mod = function(params, lambda emit, w: quantize_weight(w, format="w4-g32", parts=1, array="codes"), num_input=1)
    after, log = apply(LiftWeights(), mod)
    assert_equal(after, mod)
    assert log.records == []
    with pytest.raises(Exception, match="heddle.quantize_weight has no kernel: LiftWeights turns it into a parameter"):
        run(after, [np.zeros((48, K), np.float32)])
