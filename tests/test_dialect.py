"""Every op of the dialect x stored dtype x target: its legalization against its NumPy reference."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.ir_passes.dialect import OPS, DialectOp
from heddle.schedules.compat import TensorType, relax
from heddle.schedules.target import TargetProfile, profile_scope
from tests.cpu_targets import TARGETS, marks
from tests.ir_tools import run

POINTS = [
    pytest.param(op, dtype, target, id=f"{op.name}-{dtype}-{target.name}", marks=marks(target, op.name))
    for op in OPS.values()
    for dtype in op.dtypes
    for target in TARGETS
]


@pytest.mark.parametrize(("op", "dtype", "target"), POINTS)
def test_op_matches_its_reference(op: DialectOp, dtype: str, target: TargetProfile) -> None:
    with profile_scope(target):
        samples = op.samples(np.random.default_rng(0), dtype)
        assert samples, f"{op.name} has no samples for {dtype}"
        for sample in samples:
            arrays = [a for a in sample.arrays if isinstance(a, np.ndarray)]
            wanted = op.reference(
                *[np.copy(a) if isinstance(a, np.ndarray) else shape(a) for a in sample.arrays], **sample.attrs
            )
            got = run(call_of(op, sample.arrays, sample.attrs), arrays, profile=target)
            for actual, expected in zip(got if isinstance(got, list) else [got], wanted, strict=True):
                assert actual.shape == expected.shape
                error = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max()
                limit = op.tolerance.relative * np.abs(expected.astype(np.float64)).max()
                assert error <= limit, f"off by {error:.1e}, allowed {limit:.1e}: {op.tolerance.why}; {sample.attrs}"


def call_of(op: DialectOp, arrays: list, attrs: dict):
    """A module with one function: this call, the leading dimensions of its tensors as they are."""
    params = [
        relax.Var(f"a{i}", TensorType(list(a.shape), a.dtype.name))
        for i, a in enumerate(arrays)
        if isinstance(a, np.ndarray)
    ]
    rest = iter(params)
    args = [next(rest) if isinstance(a, np.ndarray) else a for a in arrays]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            output = builder.emit_output(op(*args, **attrs))
        builder.emit_func_output(output)
    return builder.finalize()


def shape(expr: relax.ShapeExpr) -> list[int]:
    return [int(d) for d in expr.values]


@pytest.mark.parametrize("op", OPS.values(), ids=list(OPS))
def test_cost_is_an_expression_of_the_shapes(op: DialectOp) -> None:
    with profile_scope(TARGETS[0]):
        sample = op.samples(np.random.default_rng(0), op.dtypes[0])[0]
        mod = call_of(op, sample.arrays, sample.attrs)
    call = mod["main"].body.blocks[0].bindings[0].value
    cost = op.cost(call)
    for amount in (cost.bytes, cost.flops):
        names = (
            {str(v.name) for v in relax.analysis.free_symbolic_vars(amount)} if not isinstance(amount, int) else set()
        )
        assert names <= {"context"}, "costs are numbers and symbols of the shapes"
    assert not isinstance(cost.bytes, int) or cost.bytes > 0
