"""Every registered kernel, every case, every target this CPU runs: compiled code against the NumPy reference."""

from __future__ import annotations

import numpy as np
import pytest

import heddle.ir_passes.sparse.catalog
import heddle.schedules.catalog  # noqa: F401
from heddle.schedules.compat import tvm
from heddle.schedules.registry import KERNELS, Case, Kernel
from heddle.schedules.target import TargetProfile
from tests.cpu_targets import TARGETS, marks

POINTS = [
    pytest.param(kernel, case, target, id=f"{kernel.name}-{i}-{target.name}", marks=marks(target, kernel.name))
    for kernel in KERNELS.values()
    for i, case in enumerate(kernel.cases)
    for target in TARGETS
]


def argument(array: np.ndarray) -> object:
    """A kernel argument: a tensor, or a number where the input has no dimensions (the layer)."""
    return int(array) if np.ndim(array) == 0 else tvm.runtime.tensor(array)


def largest_error(got: np.ndarray, want: np.ndarray) -> float:
    """max|got - want| / max|want|; infinite where one of them is not finite and the other differs."""
    if not want.size or got.tobytes() == want.tobytes():
        return 0.0
    got, want = got.astype(np.float64), want.astype(np.float64)
    if not np.array_equal(np.isfinite(got), np.isfinite(want)):
        return float("inf")
    finite = np.isfinite(want)
    scale = np.abs(want[finite]).max(initial=0.0)
    return float(np.abs(got - want)[finite].max(initial=0.0) / (scale or 1.0))


@pytest.mark.parametrize(("kernel", "case", "target"), POINTS)
def test_kernel_matches_its_reference(kernel: Kernel, case: Case, target: TargetProfile) -> None:
    func = kernel.factory(target=target, **case.params).with_attr("global_symbol", "main")
    main = tvm.compile(func, target=target.tvm_target())["main"]
    inputs = kernel.inputs(np.random.default_rng(0), **case.params, **case.sizes)
    wanted = kernel.reference(*[np.copy(a) for a in inputs], **case.params)
    assert len(wanted) == len(kernel.inplace) + kernel.num_outputs

    outputs = [np.full_like(w, 77) for w in wanted[len(kernel.inplace) :]]
    arguments = [argument(a) for a in [*inputs, *outputs]]
    scratch = [np.full(shape, np.nan, np.float32) for shape in kernel.scratch(**case.params)]
    main(*arguments, *map(argument, scratch))

    written = [arguments[i] for i in kernel.inplace] + arguments[len(inputs) :]
    for i, (tensor, want) in enumerate(zip(written, wanted, strict=True)):
        error = largest_error(tensor.numpy(), want)
        tolerance = case.tolerance or kernel.tolerance
        assert error <= tolerance.relative, f"value {i} is off by {error:.1e}; {tolerance}"
    for i, (before, tensor) in enumerate(zip(inputs, arguments, strict=False)):
        if i not in kernel.inplace and np.ndim(before):
            assert tensor.numpy().tobytes() == before.tobytes(), f"input {i} was overwritten"


def test_factories_are_memoized() -> None:
    kernel, target = KERNELS["add"], TARGETS[0]
    assert kernel.factory(features=8, target=target) is kernel.factory(features=8, target=target)


def test_every_kernel_has_a_case_and_a_cost() -> None:
    for kernel in KERNELS.values():
        assert kernel.cases, kernel.name
        for case in kernel.cases:
            cost = kernel.cost(**case.params, **case.sizes)
            assert cost.bytes > 0
            assert cost.flops >= 0
