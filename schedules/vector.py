"""The vocabulary of the explicit-vector kernels: 16 float32 lanes, explicit fma, an exp of our own.

The numerics contract (docs/numerics.md) rests on these few expressions. LLVM may contract `a * b + c` wherever it likes, so
a product that feeds a sum is always written `fma`. LLVM splits the 16 lanes where registers are narrower; the bits stay.
"""

from __future__ import annotations

from typing import Any

from ..runtime.plans.cache import STORAGE
from .compat import T

LANES = 16
Vec = Any  # a float32x16 expression

# Asks TVM to leave a small stack array to LLVM. TVM 0.27 loses the request in StorageRewrite: what counts is that the array has at
# most 1024 bytes; a larger one becomes a workspace call.
IN_REGISTERS = {"disable_lower_builtin": True}


def lanes(start: Any, n: int = LANES) -> Any:
    """Index of `n` consecutive elements."""
    return T.ramp(start, 1, n)


def splat(value: Any) -> Vec:
    """One scalar in every lane."""
    return T.broadcast(value, LANES)


def const(value: float) -> Vec:
    """A float32 constant in every lane."""
    return T.broadcast(T.float32(value), LANES)


def fma(a: Vec, b: Vec, c: Vec) -> Vec:
    """a * b + c with one rounding, in every lane."""
    return T.call_llvm_pure_intrin("float32x16", "llvm.fma", a, b, c)


def fma1(a: Any, b: Any, c: Any) -> Any:
    """The scalar fma; the same bits as a lane of `fma`."""
    return T.call_llvm_pure_intrin("float32", "llvm.fma", a, b, c)


def widen(value: Any, dtype: str, n: int = LANES) -> Vec:
    """Stored elements to float32, exactly. bfloat16 arrives as its bits in uint16 (half of a float32)."""
    if dtype == "float32":
        return value
    if dtype == "float16":
        return T.cast(value, f"float32x{n}" if n > 1 else "float32")
    if dtype == "bfloat16":
        if n == 1:
            return T.reinterpret("float32", T.shift_left(T.cast(value, "uint32"), T.uint32(16)))
        bits = T.cast(value, f"uint32x{n}")
        return T.reinterpret(f"float32x{n}", T.shift_left(bits, T.broadcast(T.uint32(16), n)))
    raise ValueError(f"no widening from {dtype!r}: float32, float16 and bfloat16 are stored")


def storage(dtype: str) -> str:
    """The buffer dtype that holds `dtype`: bfloat16 travels as uint16 (NumPy and DLPack do not know it), int8 records as bytes."""
    return STORAGE[dtype]


def exp(x: Vec) -> Vec:
    """e**x, relative error below 3e-7 on [-87, 87], where x is clamped; the same bits on every target.

    Cody-Waite reduction by log2(e) and a polynomial in explicit fma. libm is neither vectorised nor reproducible.
    """
    return _exp(T.max(T.min(x, const(87.0)), const(-87.0)))


def exp_down(x: Vec) -> Vec:
    """e**x for x <= 0: the bits of `exp` without its clamp above."""
    return _exp(T.max(x, const(-87.0)))


def _exp(x: Vec) -> Vec:
    p, n = exp_parts(x)
    scale = T.shift_left(T.cast(n, "int32x16"), T.broadcast(T.int32(23), LANES))
    return T.reinterpret("float32x16", T.reinterpret("int32x16", p) + scale)


def exp_parts(x: Vec) -> tuple[Vec, Vec]:
    """p and n with e**x = p * 2**n, p about sqrt(1/2) to sqrt(2), n an integer as float32; the parts of which `exp` is made."""
    r, n = exp_parts_less_one(x)
    return r + const(1.0), n


def exp_parts_less_one(x: Vec) -> tuple[Vec, Vec]:
    """p - 1 and n of `exp_parts`."""
    n = T.call_llvm_pure_intrin("float32x16", "llvm.nearbyint", x * const(1.4426950408889634))
    f = fma(n, const(-0.693359375), x)
    f = fma(n, const(2.12194440e-4), f)
    p = const(1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = fma(p, f, const(c))
    return fma(p, f * f, f), n


def silu(x: Vec) -> Vec:
    """x / (1 + e**-x)."""
    return x / (const(1.0) + exp(const(0.0) - x))
