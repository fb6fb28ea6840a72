"""AssignSchemes: the scheme of each site is written into its linear or embedding."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.compiler.quant import dequantize, quantize
from heddle.ir_passes.assign_schemes import AssignSchemes
from heddle.ir_passes.dialect import embedding_op, linear_op
from heddle.ir_passes.lift_weights import LiftWeights, evaluate, lifted_weights
from heddle.ir_passes.pack_weights import PackWeights
from heddle.schedules.compat import relax
from heddle.schedules.layouts.scheme import weight_format
from tests.ir_tools import apply, assert_equal, function, normal, run

PARAMS = [("ids", ["n"], "int32"), ("t", [70, 64], "float16"), ("wq", [48, 64], "float16"), ("wo", [40, 64], "float16")]
LINEAR = {"axes": ["heads", "hidden"], "epilogue": [], "rows": "n"}
TABLE = {"layout": "logical", "hidden": 64, "table_dtype": "float16", "site": "embed"}


def build(embed="", q="", o=""):
    def body(emit, ids, t, wq, wo):
        x = emit(embedding_op(ids, t, scheme=embed, **TABLE))
        first = emit(linear_op(x, wq, site="attn.q", scheme=q, **LINEAR))
        return relax.Tuple([first, emit(linear_op(x, wo, site="attn.o", scheme=o, **LINEAR))])

    return function(PARAMS, body, num_input=1)


def test_expected():
    schemes = (("attn.q", "w4a8-g32"), ("embed", "w8a8-pc"))
    after, log = apply(AssignSchemes(schemes), build())
    assert_equal(after, build(embed="w8a8-pc", q="w4a8-g32"))
    assert [r.site for r in log.records if r.matched] == ["embed: w8a8-pc", "attn.q: w4a8-g32"]
    assert [(r.site, r.reason) for r in log.records if not r.matched] == [
        ("attn.o", "no scheme was chosen for it: its weight stays as it is stored")
    ]


def test_must_not_fire_without_schemes():
    after, log = apply(AssignSchemes(), build())
    assert_equal(after, build())
    assert not any(r.matched for r in log.records)


def test_sites_that_are_not_there_are_named():
    with pytest.raises(ValueError, match=r"sites that the model lacks: attn\.v, mlp\.up"):
        apply(AssignSchemes((("attn.q", "w4a8-g32"), ("mlp.up", "w8a8-pc"), ("attn.v", "w8a8-pc"))), build())


def test_numeric():
    """What it writes decides what is computed: the quantized sites with decoded weights, the other one as it was."""
    rng = np.random.default_rng(0)
    ids = np.array([3, 69, 0, 3, 41], np.int32)
    weights = {name: normal(rng, *shape, dtype="float16") for name, shape, _ in PARAMS[1:]}
    schemes = {"embed": "w8a8-pc", "attn.q": "w4a16-g32-f32"}
    lowered, _ = apply(PackWeights(), apply(AssignSchemes(tuple(schemes.items())), build())[0])
    lifted, _ = apply(LiftWeights(), lowered)

    def encoded(recipe):
        source, attrs = recipe["args"][0]["source"], recipe["attrs"]
        return quantize(weights[source], weight_format(attrs["format"]), parts=attrs["parts"])[attrs["array"]]

    arrays = [evaluate(w.recipe, weights.__getitem__, encoded) for w in lifted_weights(lifted).values()]
    decoded = {}
    for param, name in (("t", "w8-pc"), ("wq", "w4-g32")):
        fmt = weight_format(name)
        decoded[param] = dequantize(quantize(weights[param], fmt), fmt, len(weights[param])).astype(np.float64)
    x = decoded["t"][ids]
    q, o = run(lifted, [ids, *arrays])
    np.testing.assert_allclose(q, x @ decoded["wq"].T, rtol=0, atol=1e-5 * np.abs(q).max())
    np.testing.assert_allclose(o, x @ weights["wo"].astype(np.float64).T, rtol=0, atol=1e-5 * np.abs(o).max())
