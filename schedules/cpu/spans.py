"""Vectors of any length: what `schedules.vector` does for 16 lanes, for the tails of heads that are no multiple of 16."""

from __future__ import annotations

from typing import Any

from ..compat import T
from ..vector import fma1


def span(start: Any, n: int) -> Any:
    """Index of `n` consecutive elements; a plain index for one."""
    return start if n == 1 else T.ramp(start, 1, n)


def full(value: Any, n: int) -> Any:
    """A float32 constant, or a float32 expression, in `n` lanes."""
    scalar = T.float32(value) if isinstance(value, float) else value
    return scalar if n == 1 else T.broadcast(scalar, n)


def fma_span(a: Any, b: Any, c: Any, n: int) -> Any:
    """a * b + c with one rounding, in `n` lanes."""
    return fma1(a, b, c) if n == 1 else T.call_llvm_pure_intrin(f"float32x{n}", "llvm.fma", a, b, c)


def narrow(value: Any, dtype: str, n: int) -> Any:
    """float32 lanes to the stored dtype, to nearest even; bfloat16 as its bits in uint16 (a NaN stays one)."""
    if dtype == "float32":
        return value
    if dtype == "float16":
        return T.cast(value, "float16" if n == 1 else f"float16x{n}")
    if dtype != "bfloat16":
        raise ValueError(f"no narrowing to {dtype!r}: float32, float16 and bfloat16 are stored")
    lanes = "" if n == 1 else f"x{n}"

    def const(bits: int) -> Any:
        return T.uint32(bits) if n == 1 else T.broadcast(T.uint32(bits), n)

    bits = T.reinterpret(f"uint32{lanes}", value)
    high = T.shift_right(bits, const(16))
    rounded = T.shift_right(bits + const(0x7FFF) + T.bitwise_and(high, const(1)), const(16))
    is_nan = T.bitwise_and(bits, const(0x7FFFFFFF)) > const(0x7F800000)
    return T.cast(T.Select(is_nan, T.bitwise_or(high, const(0x40)), rounded), f"uint16{lanes}")
