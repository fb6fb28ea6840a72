"""Dot products of four bytes in 16 lanes: unsigned times signed, summed into int32, exact on every target.

One vpdpbusd where there is VNNI. Elsewhere bytes widen to 16 bits and are multiplied and added in pairs (vpmaddwd).
vpmaddubsw, which takes bytes, would saturate; it serves codes of 4 bits, whose products leave 16 bits room for eight pairs.
"""

from __future__ import annotations

from .compat import T, ir
from .emit import Buffer, Value, local, store
from .target import TargetProfile
from .vector import Vec, lanes

PAIRS = "int16x32"


def dot4(acc: Vec, unsigned: Value, signed: Value, target: TargetProfile) -> Vec:
    """acc int32x16 + sum of four products in every lane; the operands are int32x16 words of four bytes each."""
    if target.vnni:
        u, s = T.reinterpret("uint8x64", unsigned), T.reinterpret("int8x64", signed)
        if target.vector_bits == 512:
            return T.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.vpdpbusd.512", acc, u, s)
        # In the VEX encoding where there is AVX-VNNI without AVX-512.
        return _by_halves("int32x8", "llvm.x86.avx512.vpdpbusd.256", acc, u, s)
    u, s = T.reinterpret("int16x32", unsigned), T.reinterpret("int16x32", signed)
    eight, low = T.broadcast(T.int16(8), 32), T.broadcast(T.int16(255), 32)
    even = (T.bitwise_and(u, low), T.shift_right(T.shift_left(s, eight), eight))
    odd = (T.bitwise_and(T.shift_right(u, eight), low), T.shift_right(s, eight))
    return acc + _pairs(*even, target) + _pairs(*odd, target)


class BlockSums:
    """Adds up to eight words of a block, of four bytes each, to `count` int32 sums.

    With `codes` of 4 bits and no VNNI the products stay in 16 bits until `finish`: at most 8 * 2 * 15 * 127 = 30480.
    """

    def __init__(self, count: int, bits: int, target: TargetProfile) -> None:
        self.target = target
        self.pairs: Buffer | None = None
        if bits == 4 and not target.vnni:
            self.pairs = local("pairs", (count, 32), "int16", registers=True)
            for at in range(count):
                store(self.pairs, (at, lanes(0, 32)), T.broadcast(T.int16(0), 32))

    def add(self, sums: Buffer, index: Value, at: Value, unsigned: Value, signed: Value) -> None:
        """Add the products of a word to the sum number `at`, which lies at sums[index]."""
        if self.pairs is None:
            store(sums, index, dot4(sums[index], unsigned, signed, self.target))
        else:
            place = (at, lanes(0, 32))
            store(self.pairs, place, self.pairs[place] + _byte_pairs(unsigned, signed, self.target))

    def finish(self, sums: Buffer, index: Value, at: Value) -> None:
        """After the last word: the sum number `at` is complete."""
        if self.pairs is not None:
            ones = T.broadcast(T.int16(1), 32)
            store(sums, index, sums[index] + _pairs(self.pairs[at, lanes(0, 32)], ones, self.target))


def _byte_pairs(unsigned: Value, signed: Value, target: TargetProfile) -> Vec:
    """int16x32: products of bytes, added in pairs."""
    u, s = T.reinterpret("uint8x64", unsigned), T.reinterpret("int8x64", signed)
    if target.vector_bits == 512:
        return T.call_llvm_pure_intrin(PAIRS, "llvm.x86.avx512.pmaddubs.w.512", u, s)
    return _by_halves("int16x16", "llvm.x86.avx2.pmadd.ub.sw", u, s)


def _pairs(a: Vec, b: Vec, target: TargetProfile) -> Vec:
    """int32x16: products of int16x32, added in pairs."""
    if target.vector_bits == 512:
        return T.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.pmaddw.d.512", a, b)
    return _by_halves("int32x8", "llvm.x86.avx2.pmadd.wd", a, b)


def _by_halves(dtype: str, name: str, *operands: Vec) -> Vec:
    """An instruction of half the width, twice; `dtype` is what it gives once."""
    parts = []
    for half in ("low", "high"):
        op = ir.Op.get(f"tirx.vector{half}")
        halves = [ir.Call(op, [v], ret_ty=_lanes(str(v.ty), 1, 2)) for v in operands]
        parts.append(T.call_llvm_pure_intrin(dtype, name, *halves))
    return ir.Call(ir.Op.get("tirx.vectorcombine"), parts, ret_ty=_lanes(dtype, 2, 1))


def _lanes(dtype: str, times: int, over: int) -> str:
    """A vector type with `times / over` as many lanes."""
    element, lanes = dtype.split("x")
    return f"{element}x{int(lanes) * times // over}"
