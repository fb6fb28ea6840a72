"""Dot products of four bytes in 16 lanes: unsigned times signed, summed into int32, exact on every target."""

from __future__ import annotations

from .compat import T, ir
from .emit import Value
from .target import TargetProfile
from .vector import Vec

VNNI = "avx512_vnni"


def dot4(acc: Vec, unsigned: Value, signed: Value, target: TargetProfile, *, seven_bits: bool = False) -> Vec:
    """acc int32x16 + sum of four products in every lane; the operands are int32x16 words of four bytes each.

    One vpdpbusd where there is VNNI. Elsewhere bytes widen to 16 bits and are multiplied and added in pairs (vpmaddwd).
    vpmaddubsw, which takes bytes, would saturate; it serves where `seven_bits` says that unsigned bytes are below 128 and
    signed ones above -128, so that a pair of products fits 16 bits.
    """
    if VNNI in target.features:
        u, s = T.reinterpret("uint8x64", unsigned), T.reinterpret("int8x64", signed)
        return T.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.vpdpbusd.512", acc, u, s)
    if seven_bits:
        return acc + _byte_pairs(unsigned, signed, target)
    u, s = T.reinterpret("int16x32", unsigned), T.reinterpret("int16x32", signed)
    eight, low = T.broadcast(T.int16(8), 32), T.broadcast(T.int16(255), 32)
    even = (T.bitwise_and(u, low), T.shift_right(T.shift_left(s, eight), eight))
    odd = (T.bitwise_and(T.shift_right(u, eight), low), T.shift_right(s, eight))
    return acc + _pairs(*even, target) + _pairs(*odd, target)


def _byte_pairs(unsigned: Value, signed: Value, target: TargetProfile) -> Vec:
    """int32x16: products of bytes, added in pairs into 16 bits and again into 32."""
    u, s = T.reinterpret("uint8x64", unsigned), T.reinterpret("int8x64", signed)
    if target.vector_bits == 512:
        pairs = T.call_llvm_pure_intrin("int16x32", "llvm.x86.avx512.pmaddubs.w.512", u, s)
    else:
        pairs = _by_halves("int16x16", "llvm.x86.avx2.pmadd.ub.sw", u, s)
    return _pairs(pairs, T.broadcast(T.int16(1), 32), target)


def _pairs(a: Vec, b: Vec, target: TargetProfile) -> Vec:
    """int32x16: products of int16x32, added in pairs."""
    if target.vector_bits == 512:
        return T.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.pmaddw.d.512", a, b)
    return _by_halves("int32x8", "llvm.x86.avx2.pmadd.wd", a, b)


def _by_halves(dtype: str, name: str, a: Vec, b: Vec) -> Vec:
    """An instruction of half the width, twice; `dtype` is what it gives once."""
    parts = []
    for half in ("low", "high"):
        op = ir.Op.get(f"tirx.vector{half}")
        x, y = (ir.Call(op, [v], ret_ty=_lanes(str(v.ty), 1, 2)) for v in (a, b))
        parts.append(T.call_llvm_pure_intrin(dtype, name, x, y))
    return ir.Call(ir.Op.get("tirx.vectorcombine"), parts, ret_ty=_lanes(dtype, 2, 1))


def _lanes(dtype: str, times: int, over: int) -> str:
    """A vector type with `times / over` as many lanes."""
    element, lanes = dtype.split("x")
    return f"{element}x{int(lanes) * times // over}"
