"""TagNoAlias: every PrimFunc says that its arguments do not overlap."""

from __future__ import annotations

import numpy as np

from heddle.ir_passes.dialect import add_op
from heddle.ir_passes.tag_noalias import TAG, TagNoAlias
from heddle.schedules.compat import PrimFunc, ir, relax, te
from heddle.schedules.target import profile_scope, resolve_target
from tests.ir_tools import apply, assert_equal, function, normal, run


def untagged() -> PrimFunc:
    x = te.placeholder((4,), "float32", name="x")
    func = te.create_prim_func([x, te.compute((4,), lambda i: x[i] + 1.0, name="y")])
    return func.without_attr(TAG) if func.attrs.get(TAG) else func


def test_expected():
    func = untagged()
    after, log = apply(TagNoAlias(), ir.IRModule({"f": func}))
    assert_equal(after, ir.IRModule({"f": func.with_attr(TAG, True)}))
    assert log.records[0].matched


def test_must_not_fire_on_tagged_or_relax_functions():
    mod = function([("x", ["n", 8], "float32")], lambda emit, x: add_op(x, x), num_input=1)
    mod.update_func(ir.GlobalVar("f"), untagged().with_attr(TAG, True))
    after, log = apply(TagNoAlias(), mod)
    assert_equal(after, mod)
    assert [r.reason for r in log.records] == ["already tagged"]


def test_numeric():
    mod = function([("x", ["n", 8], "float32")], lambda emit, x: add_op(x, x), num_input=1)
    with profile_scope(resolve_target()):
        legal = relax.transform.LegalizeOps()(mod)
    after, _ = apply(TagNoAlias(), legal)
    x = normal(np.random.default_rng(0), 3, 8)
    np.testing.assert_array_equal(run(after, [x]), x + x)
