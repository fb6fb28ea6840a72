"""RMSNorm and LayerNorm of rows or of their heads, with a summation order that depends on the normalised length alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..compat import PrimFunc, T, finish, tirx
from ..emit import Buffer, Value, buffer, i64, let, local, otherwise, parallel, prim_func, serial, store, when
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import LANES, Vec, const, fma, fma1, lanes, splat

SERIAL = 8192  # elements that one thread normalises sooner than it wakes the others (1 to 10 microseconds)


@dataclasses.dataclass(frozen=True)
class Norm:
    """How `width` neighbouring elements are normalised: "rms" (Zhang and Sennrich 2019) or "layer" (Ba et al. 2016).

    rms: x / sqrt(mean(x**2) + eps) * weight. layer: (x - mean(x)) / sqrt(var(x) + eps) * weight (+ bias).
    """

    kind: str
    width: int
    eps: float
    bias: bool = False

    def statistics(self, x: Buffer, row: Value, start: Value, inverse: Buffer, mean: Buffer, i: Value) -> None:
        """Emit inverse[i] and, of a layer norm, mean[i] for x[row, start:start + width].

        Lane l sums elements l, l + 16, ... in ascending order (squares by fma); then halves are added: 16, 8, 4, 2, 1. The
        variance is the mean square of what is left after the mean.
        """
        if self.kind == "layer":
            total = self._sum(x, row, start, lambda value, acc, n: acc + value)
            store(
                mean, i, total / T.float32(self.width)
            )  # a division: a product could be contracted with the difference

        def square(value: Vec, acc: Vec, n: int) -> Vec:
            if self.kind == "layer":
                value = value - (splat(mean[i]) if n > 1 else mean[i])
            return (fma if n > 1 else fma1)(value, value, acc)

        squares = self._sum(x, row, start, square)
        average = fma1(squares, T.float32(1.0 / self.width), T.float32(self.eps))
        store(inverse, i, T.float32(1.0) / T.sqrt(average))

    def normalise(
        self,
        x: Buffer,
        row: Value,
        start: Value,
        first: Value,
        y: Buffer,
        to: tuple[Value, Value],
        operands: Sequence[Buffer],
    ) -> None:
        """Emit y[to] = the norm of x[row, start:start + width]; the operands' elements are those from `first` on."""
        inverse, mean = local("inverse", (1,), registers=True), local("mean", (1,), registers=True)
        self.statistics(x, row, start, inverse, mean, 0)
        y_row, y_start = to

        def element(k: Value, n: int) -> None:
            def at(offset: Value) -> Value:
                return lanes(offset + k, n) if n > 1 else offset + k

            weight, *bias = (operand[at(first)] for operand in operands)
            value = self.apply(x[row, at(start)], inverse[0], mean[0], weight, bias[0] if bias else None, n)
            store(y, (y_row, at(y_start)), value)

        whole = self.width // LANES * LANES
        with serial(i64(self.width // LANES), "c") as c:
            element(c * LANES, LANES)
        with serial(i64(self.width - whole), "j") as j:
            element(whole + j, 1)

    def _sum(self, x: Buffer, row: Value, start: Value, step: Callable[[Vec, Vec, int], Vec]) -> Value:
        s = local("partial", (LANES,), registers=True)
        whole = self.width // LANES * LANES
        store(s, lanes(0), const(0.0))
        with serial(T.int64(self.width // LANES), "c") as c:
            store(s, lanes(0), step(x[row, lanes(start + c * LANES)], s[lanes(0)], LANES))
        for j in range(self.width - whole):
            store(s, j, step(x[row, start + whole + j], s[j], 1))
        for half in (8, 4, 2):
            store(s, lanes(0, half), s[lanes(0, half)] + s[lanes(half, half)])
        return s[0] + s[1]

    def apply(self, x: Vec, inverse: Value, mean: Value, weight: Vec, bias: Vec | None, n: int = LANES) -> Vec:
        """n normalised elements; `inverse` and `mean` are the row's scalars."""

        def wide(value: Value) -> Vec:
            return T.broadcast(value, n) if n > 1 else value

        if self.kind == "rms":
            return x * wide(inverse) * weight
        scaled = (x - wide(mean)) * wide(inverse)
        if bias is None:
            return scaled * weight
        return T.call_llvm_pure_intrin(f"float32x{n}" if n > 1 else "float32", "llvm.fma", scaled, weight, bias)

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of the vectors beside x."""
        return ("weight", "bias") if self.bias else ("weight",)

    def reference(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        """The norm of each `width` elements of x [n, groups * width] in float64, rounded once.

        `weight` and `bias` are [width] or [groups * width].
        """
        wide = x.astype(np.float64).reshape(len(x), -1, self.width)
        if self.kind == "layer":
            wide = wide - wide.mean(-1, keepdims=True)
        wide = wide / np.sqrt((wide * wide).mean(-1, keepdims=True) + self.eps) * weight.reshape(-1, self.width)
        if bias is not None:
            wide = wide + bias.reshape(-1, self.width)
        return wide.reshape(x.shape).astype(np.float32)


def norm_rows(norm: Norm, groups: int, shared: bool) -> PrimFunc:
    """x float32 [n, groups * width], weight (and bias) float32 [width] if `shared`, else [groups * width] -> y like x."""
    width, n = norm.width, tirx.Var("n", "int64")
    shape = (n, T.int64(groups * width))
    x, y = buffer("x", shape, "float32", align=64), buffer("y", shape, "float32", align=64)
    size = (T.int64(width if shared else groups * width),)
    operands = [buffer(name, size, "float32", align=64) for name in norm.operands]

    def one_row(row: Value) -> None:
        with serial(i64(groups), "g") as g:
            start = let("start", g * width)
            norm.normalise(x, row, start, i64(0) if shared else start, y, (row, start), operands)

    with prim_func([x, *operands, y]) as made:
        few = n * (groups * width) <= SERIAL
        with when(few), serial(n, "row") as row:
            one_row(row)
        with otherwise(few), parallel(n, "row") as row:
            one_row(row)
    return finish(made[0])


def _inputs(
    rng: np.random.Generator,
    *,
    features: int,
    n: int,
    groups: int = 1,
    shared: bool = True,
    bias: bool = False,
    **_: Any,
) -> list[np.ndarray]:
    size = features // groups if shared else features
    x = rng.standard_normal((n, features), dtype=np.float32) + np.float32(0.5)
    return [x, *(rng.standard_normal(size, dtype=np.float32) for _ in range(2 if bias else 1))]


def _cost(*, features: int, n: int, **_: Any) -> Cost:
    return Cost(bytes=4 * features * (2 * n + 1), flops=4 * n * features)


_CASES = (
    ({"features": 64, "eps": 1e-6}, {"n": 3}),
    ({"features": 77, "eps": 1e-5}, {"n": 1}),
    ({"features": 9, "eps": 1e-5}, {"n": 2}),
    ({"features": 600, "eps": 1e-5}, {"n": 20}),
    ({"features": 120, "eps": 1e-6, "groups": 3, "shared": True}, {"n": 4}),
    ({"features": 96, "eps": 1e-6, "groups": 2, "shared": False}, {"n": 90}),
)
_TOLERANCE = Tolerance(1e-6, "float32 sums in 16 chains")


def _rms(features: int, eps: float, groups: int = 1, **_: Any) -> Norm:
    return Norm("rms", features // groups, eps)


@kernel(
    reference=lambda x, weight, **params: (_rms(**params).reference(x, weight),),
    inputs=_inputs,
    cost=_cost,
    tolerance=_TOLERANCE,
    cases=[Case(*case) for case in _CASES],
)
def rms_norm(*, features: int, eps: float, groups: int = 1, shared: bool = True, target: TargetProfile) -> PrimFunc:
    """RMSNorm of each of `groups` equal parts of a row: x, weight -> y as `norm_rows` has them."""
    return norm_rows(_rms(features, eps, groups), groups, shared)


def _layer(features: int, eps: float, groups: int = 1, bias: bool = False, **_: Any) -> Norm:
    return Norm("layer", features // groups, eps, bias)


@kernel(
    reference=lambda x, *operands, **params: (_layer(**params).reference(x, *operands),),
    inputs=_inputs,
    cost=_cost,
    tolerance=_TOLERANCE,
    cases=[Case({**params, "bias": i % 2 == 1}, sizes) for i, (params, sizes) in enumerate(_CASES)],
)
def layer_norm(
    *, features: int, eps: float, groups: int = 1, shared: bool = True, bias: bool = False, target: TargetProfile
) -> PrimFunc:
    """LayerNorm of each of `groups` equal parts of a row: x, weight (, bias) -> y as `norm_rows` has them."""
    return norm_rows(_layer(features, eps, groups, bias), groups, shared)
