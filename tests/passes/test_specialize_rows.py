"""SpecializeRows: one function becomes instances for 1, 4, 8 and any number of rows."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.ir_passes.dialect import add_op, linear_op
from heddle.ir_passes.specialize_rows import SpecializeRows
from heddle.schedules.compat import ir
from tests.ir_tools import apply, assert_equal, function, normal, run

ATTRS = {"site": "s", "axes": ["hidden", "hidden"], "epilogue": []}


def build(name, n, rows):
    params = [("x", [n, 40], "float32"), ("w", [72, 40], "float16")]
    return function(params, lambda emit, x, w: linear_op(x, w, rows=rows, **ATTRS), num_input=1, name=name)


def test_expected():
    after, log = apply(SpecializeRows(), build("body", "n", "n"))
    expected = ir.IRModule()
    for name, n, rows in (("body_1", 1, "1"), ("body_4", "n", "4"), ("body_8", "n", "8"), ("body_n", "n", "n")):
        expected.update_func(ir.GlobalVar(name), build(name, n, rows)[name])
    for name in ("body_1", "body_4", "body_8", "body_n"):
        assert_equal(ir.IRModule({name: after[name]}), ir.IRModule({name: expected[name]}))
    assert [r.site for r in log.records] == ["body_1", "body_4", "body_8", "body_n"]


def test_must_not_fire_where_no_kernel_depends_on_the_rows():
    def other():
        return function([("x", ["n", 40], "float32")], lambda emit, x: add_op(x, x), num_input=1, name="embed")

    after, log = apply(SpecializeRows(), other())
    assert [gv.name_hint for gv in after.get_global_vars()] == ["embed_n"]
    assert log.records[0].reason == "its kernels do not depend on the number of rows"


@pytest.mark.parametrize(("symbol", "n"), [("body_1", 1), ("body_4", 3), ("body_8", 8)])
def test_numeric(symbol, n):
    rng = np.random.default_rng(0)
    x, w = normal(rng, 8, 40), normal(rng, 72, 40, dtype="float16")
    after, _ = apply(SpecializeRows(), build("body", "n", "n"))
    many = run(after, [x, w], name="body_n")
    np.testing.assert_array_equal(run(after, [x[:n], w], name=symbol), many[:n])
