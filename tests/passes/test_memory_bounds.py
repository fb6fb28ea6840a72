"""MemoryBounds: symbolic rows get an upper bound, so that the workspace is planned statically."""

from __future__ import annotations

import numpy as np

from heddle.ir_passes.dialect import add_op
from heddle.ir_passes.memory_bounds import MemoryBounds, workspace_bytes
from heddle.schedules.compat import ir, relax
from heddle.schedules.target import profile_scope, resolve_target
from tests.ir_tools import apply, assert_equal, function, normal, run


def chain(name):
    """Two sums in a row: the first result is workspace of 40 floats a row."""
    return function(
        [("x", ["n", 40], "float32")], lambda emit, x: add_op(emit(add_op(x, x)), x), num_input=1, name=name
    )


def test_expected():
    after, log = apply(MemoryBounds(max_tokens=64), chain("body_8"))
    func = chain("body_8")["body_8"].with_attr("tir_var_upper_bound", {"n": 8})
    assert_equal(after, ir.IRModule({"body_8": func}))
    assert log.records[0].site == "body_8: n <= 8"
    after, _ = apply(MemoryBounds(max_tokens=64), chain("embed_n"))
    assert dict(after["embed_n"].attrs["tir_var_upper_bound"].items()) == {"n": 64}


def test_must_not_fire_on_other_functions():
    after, log = apply(MemoryBounds(max_tokens=64), chain("main"))
    assert_equal(after, chain("main"))
    assert log.records[0].reason == "no row dimension is known for it"


def test_numeric():
    after, _ = apply(MemoryBounds(max_tokens=64), chain("body_8"))
    x = normal(np.random.default_rng(0), 5, 40)
    np.testing.assert_array_equal(run(after, [x], name="body_8"), run(chain("body_8"), [x], name="body_8"))


def test_the_workspace_is_what_the_bound_allows():
    after, _ = apply(MemoryBounds(max_tokens=64), chain("body_8"))
    with profile_scope(resolve_target()):
        for step in (relax.transform.LegalizeOps(), relax.transform.ToNonDataflow(), relax.transform.CallTIRRewrite()):
            after = step(after)
    planned = relax.transform.StaticPlanBlockMemory()(after)
    assert workspace_bytes(planned) == {"body_8": 8 * 40 * 4}
