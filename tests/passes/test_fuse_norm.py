"""FuseNorm: RMSNorm and LayerNorm move into the packing of activations."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.ir_passes.dialect import NO_NORM, layer_norm_op, pack_rows, quant_pack, rms_norm_op
from heddle.ir_passes.fuse_norm import FuseNorm
from heddle.schedules.catalog import row_tile
from heddle.schedules.compat import relax
from heddle.schedules.target import resolve_target
from tests.ir_tools import apply, assert_equal, function, normal, run

PARAMS = [("x", ["n", 40], "float32"), ("g", [40], "float32"), ("b", [40], "float32")]
TILE = row_tile(resolve_target())
CODING = {"activation": "int8", "group": 0, "tile": 4, "factor": 1}
PACKINGS = {"pack_rows": (pack_rows, {"tile": TILE}), "quant_pack": (quant_pack, CODING)}
NORMS = {
    "rms": lambda x, g, b, groups=1: rms_norm_op(x, g, eps=1e-5, groups=groups),
    "layer": lambda x, g, b: layer_norm_op(x, g, eps=1e-5, groups=1),
    "layer with bias": lambda x, g, b: layer_norm_op(x, g, b, eps=1e-5, groups=1),
}


def build(body):
    return function(PARAMS, body, num_input=1)


def before(packing="pack_rows", norm="rms", **options):
    op, attrs = PACKINGS[packing]
    return build(lambda emit, x, g, b: op(emit(NORMS[norm](x, g, b, **options)), **NO_NORM, **attrs))


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_expected(packing, norm):
    op, attrs = PACKINGS[packing]

    def body(emit, x, g, b):
        operands = [g, b] if "bias" in norm else [g]
        return op(x, *operands, norm=norm.split()[0], norm_eps=1e-5, **attrs)

    after, log = apply(FuseNorm(), before(packing, norm))
    assert_equal(after, build(body))
    assert log.records[0].matched


def test_must_not_fire_where_the_rows_are_used_unpacked():
    def body(emit, x, g, b):
        h = emit(NORMS["rms"](x, g, b))
        return relax.Tuple([emit(pack_rows(h, **NO_NORM, tile=TILE)), h])

    after, log = apply(FuseNorm(), build(body))
    assert_equal(after, build(body))
    assert log.records[0].reason == "the normalised rows are used elsewhere too"


def test_must_not_fire_without_a_norm():
    plain = build(lambda emit, x, g, b: pack_rows(x, **NO_NORM, tile=TILE))
    after, log = apply(FuseNorm(), plain)
    assert_equal(after, plain)
    assert log.records[0].reason == "the packed value is not normalised right before"


def test_must_not_fire_on_norms_of_heads():
    heads = function(
        [PARAMS[0], ("g", [10], "float32"), PARAMS[2]],
        lambda emit, x, g, b: pack_rows(emit(NORMS["rms"](x, g, b, groups=4)), **NO_NORM, tile=TILE),
        num_input=1,
    )
    after, log = apply(FuseNorm(), heads)
    assert_equal(after, heads)
    assert log.records[0].reason == "4 heads are normalised one by one"


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_numeric(packing, norm):
    rng = np.random.default_rng(0)
    arrays = [normal(rng, 29, 40), normal(rng, 40), normal(rng, 40)]
    after, _ = apply(FuseNorm(), before(packing, norm))
    old, new = run(before(packing, norm), arrays), run(after, arrays)
    for a, b in zip(old, new, strict=True) if isinstance(old, list) else [(old, new)]:
        np.testing.assert_array_equal(a, b)
