"""The kernel registry: every kernel factory with its reference, inputs, tolerance and cost.

Tests, `verify`, `explain` and the benchmarks read this registry; a kernel without an entry does not exist.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .compat import PrimFunc, fast_frames
from .kernel_sets import for_kernel_set


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one call moves and computes: `bytes` read and written at least once, `flops` (an fma counts as two)."""

    bytes: int
    flops: int


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """Largest allowed max|a - b| / max|b| against the reference, and why it is that large (0 means bitwise)."""

    relative: float
    why: str


@dataclasses.dataclass(frozen=True)
class Case:
    """One point where a kernel is tested: static factory parameters and run-time sizes; `tolerance` if it has its own."""

    params: Mapping[str, Any]
    sizes: Mapping[str, Any]
    tolerance: Tolerance | None = None


def no_scratch(**_: Any) -> list[tuple[int, ...]]:
    """The scratch of most kernels."""
    return []


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel factory and everything that judges it.

    `factory(target=..., **params)` gives a PrimFunc whose arguments are the inputs followed by `num_outputs` outputs.
    `inplace` lists the inputs that the kernel also writes; the reference returns their new values before the outputs.
    `scratch(**params)` gives the shapes of float32 arguments after the outputs, whose values mean nothing to the caller.
    `inputs(rng, **params, **sizes)` gives NumPy arrays; `reference(*inputs, **params)` a tuple of arrays;
    `cost(**params, **sizes)` a Cost.
    """

    name: str
    factory: Callable[..., PrimFunc]
    reference: Callable[..., tuple[np.ndarray, ...]]
    inputs: Callable[..., list[np.ndarray]]
    cost: Callable[..., Cost]
    tolerance: Tolerance
    cases: tuple[Case, ...]
    num_outputs: int = 1
    inplace: tuple[int, ...] = ()
    scratch: Callable[..., list[tuple[int, ...]]] = no_scratch


KERNELS: dict[str, Kernel] = {}


def kernel(
    *,
    reference: Callable[..., tuple[np.ndarray, ...]],
    inputs: Callable[..., list[np.ndarray]],
    cost: Callable[..., Cost],
    tolerance: Tolerance,
    cases: list[Case],
    num_outputs: int = 1,
    inplace: tuple[int, ...] = (),
    scratch: Callable[..., list[tuple[int, ...]]] = no_scratch,
) -> Callable[[Callable[..., PrimFunc]], Callable[..., PrimFunc]]:
    """Register a kernel factory under its own name and memoize it (equal parameters give the same PrimFunc object).

    What it gives for a target without vectors is rewritten here.
    """

    def register(factory: Callable[..., PrimFunc]) -> Callable[..., PrimFunc]:
        name = factory.__name__
        if name in KERNELS:
            raise ValueError(f"kernel {name!r} is registered twice")

        @functools.cache
        @functools.wraps(factory)
        def memoized(**params: Any) -> PrimFunc:
            with fast_frames():
                return for_kernel_set(factory(**params), params["target"])

        KERNELS[name] = Kernel(
            name, memoized, reference, inputs, cost, tolerance, tuple(cases), num_outputs, inplace, scratch
        )
        return memoized

    return register
