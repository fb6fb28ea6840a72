"""FuseNorm: RMSNorm moves into the packing of activations."""

from __future__ import annotations

import numpy as np

from heddle.ir_passes.dialect import pack_rows, rms_norm_op
from heddle.ir_passes.fuse_norm import FuseNorm
from heddle.schedules.catalog import row_tile
from heddle.schedules.compat import relax
from heddle.schedules.target import resolve_target
from tests.ir_tools import apply, assert_equal, function, normal, run

PARAMS = [("x", ["n", 40], "float32"), ("g", [40], "float32")]


TILE = row_tile(resolve_target())


def build(body):
    return function(PARAMS, body, num_input=1)


def before():
    return build(lambda emit, x, g: pack_rows(emit(rms_norm_op(x, g, eps=1e-5)), norm_eps=-1.0, tile=TILE))


def test_expected():
    after, log = apply(FuseNorm(), before())
    assert_equal(after, build(lambda emit, x, g: pack_rows(x, g, norm_eps=1e-5, tile=TILE)))
    assert log.records[0].matched


def test_must_not_fire_where_the_rows_are_used_unpacked():
    def body(emit, x, g):
        h = emit(rms_norm_op(x, g, eps=1e-5))
        return relax.Tuple([emit(pack_rows(h, norm_eps=-1.0, tile=TILE)), h])

    after, log = apply(FuseNorm(), build(body))
    assert_equal(after, build(body))
    assert log.records[0].reason == "the normalised rows are used elsewhere too"


def test_must_not_fire_without_a_norm():
    plain = build(lambda emit, x, g: pack_rows(x, norm_eps=-1.0, tile=TILE))
    after, log = apply(FuseNorm(), plain)
    assert_equal(after, plain)
    assert log.records[0].reason == "the packed value is not an rms_norm"


def test_numeric():
    rng = np.random.default_rng(0)
    arrays = [normal(rng, 29, 40), normal(rng, 40)]
    after, _ = apply(FuseNorm(), before())
    np.testing.assert_array_equal(run(before(), arrays), run(after, arrays))
