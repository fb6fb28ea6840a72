"""Pointwise kernels: activation functions, gates, scaling and soft-capping, with the bits that they have in an epilogue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..activations import ACTIVATIONS, scaled, tanh
from ..activations import activation as function
from ..compat import PrimFunc, T, finish, tirx
from ..emit import Buffer, Value, buffer, i64, let, local, otherwise, parallel, prim_func, serial, store, when
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import LANES, Vec, const, lanes

SERIAL = 4096  # elements that one thread computes sooner than it wakes the others
BLOCK = 256  # vectors of a row that a task computes: a row of logits is many tasks

_POLYNOMIAL = Tolerance(1e-6, "the polynomials of exp and of the normal distribution")
_SIZES = (({"features": 64}, {"n": 3}), ({"features": 45}, {"n": 2}), ({"features": 7}, {"n": 1}))
_LARGE = ({"features": 9000}, {"n": 2})


def rows_kernel(features: int, names: tuple[str, ...], value: Callable[..., Vec]) -> PrimFunc:
    """out = value(*operands) elementwise, all float32 [n, features]; `value` maps vectors of 16 lanes to one."""
    n = tirx.Var("n", "int64")
    operands = [buffer(name, (n, T.int64(features)), "float32", align=64) for name in names]
    out = buffer("out", (n, T.int64(features)), "float32", align=64)
    vectors, rest = features // LANES, features % LANES
    blocks = -(-vectors // BLOCK) or 1

    def part(row: Value, block: Value) -> None:
        first = let("first", block * BLOCK)
        with serial(T.min(i64(BLOCK), vectors - first) if blocks > 1 else i64(vectors), "c") as c:
            index = (row, lanes((first + c) * LANES))
            store(out, index, value(*(b[index] for b in operands)))
        if rest:
            with when(block == blocks - 1):
                tails = [_tail(b, row, vectors * LANES, rest) for b in operands]
                store(tails[0], lanes(0), value(*(t[lanes(0)] for t in tails)))
                with serial(i64(rest), "j") as j:
                    store(out, (row, vectors * LANES + j), tails[0][j])

    with prim_func([*operands, out]) as made:
        few = n * features <= SERIAL
        with when(few), serial(n * blocks, "i") as i:
            part(T.truncdiv(i, i64(blocks)), T.truncmod(i, i64(blocks)))
        with otherwise(few), parallel(n * blocks, "i") as i:
            part(T.truncdiv(i, i64(blocks)), T.truncmod(i, i64(blocks)))
    return finish(made[0])


def _tail(source: Buffer, row: Value, whole: int, rest: int) -> Buffer:
    """The last `rest` elements of a row, then zeros."""
    tail = local("tail", (LANES,), registers=True)
    store(tail, lanes(0), const(0.0))
    with serial(i64(rest), "j") as j:
        store(tail, j, source[row, whole + j])
    return tail


def _rows(count: int) -> Callable[..., list[np.ndarray]]:
    def inputs(rng: np.random.Generator, *, features: int, n: int, **_: Any) -> list[np.ndarray]:
        return [2 * rng.standard_normal((n, features), dtype=np.float32) for _ in range(count)]

    return inputs


def _cost(count: int, flops: int) -> Callable[..., Cost]:
    return lambda *, features, n, **_: Cost(bytes=4 * (count + 1) * n * features, flops=flops * n * features)


def _in_double(kind: str, x: np.ndarray) -> np.ndarray:
    return function(kind).reference(x.astype(np.float64))


@kernel(
    reference=lambda x, *, kind, **_: (_in_double(kind, x).astype(np.float32),),
    inputs=_rows(1),
    cost=_cost(1, 16),
    tolerance=_POLYNOMIAL,
    cases=[Case({**_SIZES[1][0], "kind": kind}, _SIZES[1][1]) for kind in ACTIVATIONS]
    + [Case({**_LARGE[0], "kind": "gelu"}, _LARGE[1])],
)
def activation(*, features: int, kind: str, target: TargetProfile) -> PrimFunc:
    """x float32 [n, features] -> kind(x); ValueError for an activation function that does not exist."""
    return rows_kernel(features, ("x",), function(kind).lanes)


@kernel(
    reference=lambda gate, up, *, kind, **_: ((_in_double(kind, gate) * up).astype(np.float32),),
    inputs=_rows(2),
    cost=_cost(2, 17),
    tolerance=_POLYNOMIAL,
    cases=[Case({**params, "kind": "silu"}, sizes) for params, sizes in _SIZES]
    + [Case({**_SIZES[1][0], "kind": kind}, _SIZES[1][1]) for kind in ("gelu", "gelu_tanh")],
)
def gated(*, features: int, kind: str, target: TargetProfile) -> PrimFunc:
    """gate, up float32 [n, features] -> kind(gate) * up."""
    act = function(kind).lanes
    return rows_kernel(features, ("gate", "up"), lambda gate, up: act(gate) * up)


@kernel(
    reference=lambda x, *, factor, **_: (x * np.float32(factor),),
    inputs=_rows(1),
    cost=_cost(1, 1),
    tolerance=Tolerance(0.0, "one rounded product"),
    cases=[Case({**params, "factor": 0.22}, sizes) for params, sizes in (_SIZES[0], _SIZES[1])],
)
def scale(*, features: int, factor: float, target: TargetProfile) -> PrimFunc:
    """x float32 [n, features] -> x * factor, the factor rounded to float32."""
    return rows_kernel(features, ("x",), lambda x: scaled(x, const(factor)))


@kernel(
    reference=lambda x, *, cap, **_: ((cap * np.tanh(x.astype(np.float64) / cap)).astype(np.float32),),
    inputs=_rows(1),
    cost=_cost(1, 20),
    tolerance=Tolerance(1e-6, "the polynomial of exp"),
    cases=[Case({**params, "cap": cap}, sizes) for params, sizes in (_SIZES[1], _LARGE) for cap in (30.0, 0.5)],
)
def softcap(*, features: int, cap: float, target: TargetProfile) -> PrimFunc:
    """x float32 [n, features] -> cap * tanh(x / cap), which keeps values below `cap` (Gemma 2, 2024)."""
    return rows_kernel(features, ("x",), lambda x: const(cap) * tanh(x / const(cap)))
