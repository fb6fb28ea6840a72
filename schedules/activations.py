"""The activation functions of feed-forward layers: in 16 lanes for the kernels, in NumPy for the references.

All are made of `schedules.vector`'s few expressions, so a value has the same bits alone, in a linear's epilogue and on every
target.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from .compat import T
from .emit import let
from .vector import Vec, const, exp, exp_down, exp_parts_less_one, fma, silu, splat

_GELU_SLOPE = 0.26
# q with Phi(-z) * e**(z**2 / 2) = t * q(t), t = 1 / (1 + 0.26 z): a minimax fit on [0, 14], relative error below 2.5e-8.
_GELU_TAIL = (
    *(0.10375907155322585, 0.10301655527150602, 0.10303162041237865, 0.05102242295421944, 0.16096004193184707),
    *(-0.1509664122760737, 0.25150639944818565, -0.1528360777879032, 0.03050636612562843),
)


def relu(x: Vec) -> Vec:
    """max(x, 0)."""
    return T.max(x, const(0.0))


def relu2(x: Vec) -> Vec:
    """max(x, 0)**2 (So et al. 2021). As an fma with 0 the product cannot be contracted with a sum that follows."""
    return fma(relu(x), relu(x), const(0.0))


def gelu(x: Vec) -> Vec:
    """x * Phi(x), Phi the normal distribution (Hendrycks and Gimpel 2016), as max(x, 0) - |x| * Phi(-|x|).

    No digits cancel: the error is below 1e-7 * max(1, |x|), relative to the result below 5e-7 from -3 on and 2e-6 from -6 on.
    """
    x = let("gate", x)
    size = let("size", T.max(x, const(0.0) - x))
    t = let("t", const(1.0) / fma(size, const(_GELU_SLOPE), const(1.0)))
    tail = const(_GELU_TAIL[-1])
    for c in _GELU_TAIL[-2::-1]:
        tail = fma(tail, t, const(c))
    below = exp_down(let("exponent", size * size * const(-0.5))) * (tail * t)
    return fma(const(0.0) - size, below, relu(x))


def gelu_tanh(x: Vec) -> Vec:
    """0.5 * x * (1 + tanh(u)), u = sqrt(2 / pi) * (x + 0.044715 x**3), as x / (1 + e**-2u): no digits cancel."""
    x = let("gate", x)
    u = let("u", x * fma(x * x, const(-2 * 0.7978845608028654 * 0.044715), const(-2 * 0.7978845608028654)))
    return x / (const(1.0) + exp(u))


def tanh(x: Vec) -> Vec:
    """e / (e + 2), e = e**2x - 1 without cancellation: relative error below 5e-7; the same bits on every target."""
    doubled = let("doubled", T.max(T.min(x + x, const(87.0)), const(-87.0)))
    r, n = (let("part", part) for part in exp_parts_less_one(doubled))
    power = T.reinterpret("float32x16", T.shift_left(T.cast(n, "int32x16") + splat(T.int32(127)), splat(T.int32(23))))
    e = let("e", fma(r, power, power - const(1.0)))
    return e / (e + const(2.0))


def scaled(x: Vec, factor: Vec) -> Vec:
    """x * factor. As an fma with 0 the product cannot be contracted with a sum that follows."""
    return fma(x, factor, const(0.0))


def _silu_reference(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-np.clip(x, -87, 87)))


def _gelu_reference(x: np.ndarray) -> np.ndarray:
    erfc = np.vectorize(math.erfc, otypes=[np.float64])
    return (0.5 * x * erfc(-x / np.sqrt(2))).astype(x.dtype)


def _gelu_tanh_reference(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@dataclasses.dataclass(frozen=True)
class Activation:
    """A function in 16 lanes, and in NumPy in the precision of its argument."""

    lanes: Callable[[Vec], Vec]
    reference: Callable[[np.ndarray], np.ndarray]


ACTIVATIONS = {
    "relu": Activation(relu, lambda x: np.maximum(x, 0)),
    "silu": Activation(silu, _silu_reference),
    "gelu": Activation(gelu, _gelu_reference),
    "gelu_tanh": Activation(gelu_tanh, _gelu_tanh_reference),
    "relu2": Activation(relu2, lambda x: np.maximum(x, 0) ** 2),
}


def activation(kind: str) -> Activation:
    """The activation function `kind`; ValueError for one that does not exist."""
    if kind not in ACTIVATIONS:
        raise ValueError(f"no activation function {kind!r}; choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[kind]
