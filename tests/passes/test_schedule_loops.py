"""ScheduleLoops: loops between the kernels get threads, and an order that vectorizes."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.ir_passes.schedule_loops import SCHEDULED, ScheduleLoops
from heddle.schedules.compat import relax, tirx, tvm
from heddle.schedules.target import resolve_target
from tests.ir_tools import apply, function, normal, run

op = relax.op
MATRICES = [("x", ["b", "m", 24], "float32"), ("y", ["b", 24, "n"], "float32")]


def fused(body, params):
    """A program as the pass meets it: legalized and fused."""
    transform = relax.transform
    with resolve_target().tvm_target():
        return tvm.transform.Sequential(
            [transform.LegalizeOps(), transform.AnnotateTIROpPattern(), transform.FuseOps(), transform.FuseTIR()]
        )(function(params, body, num_input=len(params)))


def kernels(mod):
    return [f for f in mod.functions.values() if isinstance(f, tirx.PrimFunc)]


def product(emit, x, y):
    return op.exp(emit(op.matmul(x, y)))


def test_expected():
    after, log = apply(ScheduleLoops(), fused(product, MATRICES))
    (kernel,) = kernels(after)
    text = kernel.script()
    # Row by row in parallel; the sum outside of the loop over columns, its initialisation before both.
    assert [line.strip() for line in text.splitlines() if line.strip().startswith("for ")] == [
        "for i0_i1_fused in T.parallel(b * m):",
        "for i2_init in range(n):",
        "for k, i2 in T.grid(T.int64(24), n):",
        "for i0_i1_fused in T.parallel(b * m):",
        "for i2 in range(n):",
    ]
    assert text.index("matmul_init") < text.index("matmul_update") < text.index('"compute"')
    assert "T.init" not in text
    assert all(record.matched for record in log.records)
    assert bool(kernel.attrs[SCHEDULED])


def test_expected_inlining():
    def body(emit, x, y):
        return op.nn.relu(emit(op.add(emit(op.exp(x)), emit(op.sqrt(y)))))

    after, _ = apply(ScheduleLoops(), fused(body, [("x", ["m", 8], "float32"), ("y", [8], "float32")]))
    (kernel,) = kernels(after)
    assert kernel.script().count("T.sblock(") == 2, "the root and one block"


def test_must_not_fire():
    mod = fused(product, MATRICES)
    done = tvm.ir.IRModule(
        {gv: f.with_attr(SCHEDULED, True) if isinstance(f, tirx.PrimFunc) else f for gv, f in mod.functions.items()}
    )
    after, log = apply(ScheduleLoops(), done)
    tvm.ir.assert_structural_equal(after, done)
    assert log.records == []


def test_must_not_fire_on_loops_without_blocks():
    with resolve_target().tvm_target():
        mod = relax.backend.DispatchSortScan()(
            function([("x", ["m", 8], "float32")], lambda emit, x: op.cumsum(x, axis=-1), num_input=1)
        )
    after, log = apply(ScheduleLoops(), mod)
    reasons = [record.reason for record in log.records if not record.matched]
    assert "it is written as loops, not as blocks" in reasons
    assert len(kernels(after)) == len(kernels(mod))


def test_must_not_fire_on_a_sum_to_one_number():
    after, log = apply(ScheduleLoops(), fused(lambda emit, x, y: op.sum(x), MATRICES))
    assert [record.reason for record in log.records] == ["it has no data-parallel loop, or others beside reductions"]
    (kernel,) = kernels(after)
    assert "T.parallel" not in kernel.script()


@pytest.mark.parametrize("sizes", [(2, 3, 5), (1, 1, 1), (3, 0, 4)])
def test_numeric(sizes):
    b, m, n = sizes
    rng = np.random.default_rng(0)
    arrays = [normal(rng, b, m, 24) / 5, normal(rng, b, 24, n)]
    found = run(apply(ScheduleLoops(), fused(product, MATRICES))[0], arrays)
    np.testing.assert_allclose(found, np.exp(arrays[0] @ arrays[1]), rtol=1e-4)


def test_numeric_empty_sums_are_zero():
    params = [("x", [5, "k"], "float32"), ("y", ["k", 16], "float32")]
    mod, _ = apply(ScheduleLoops(), fused(lambda emit, x, y: op.matmul(x, y), params))
    found = run(mod, [np.zeros((5, 0), np.float32), np.zeros((0, 16), np.float32)])
    np.testing.assert_array_equal(found, np.zeros((5, 16), np.float32))
