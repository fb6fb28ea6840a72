"""Dot products of four bytes in 16 lanes: codes times signed bytes, summed into int32, exact on every target.

x86 has one instruction for unsigned times signed bytes (vpdpbusd), and so has Arm with i8mm (usdot). Arm's sdot takes signed bytes
only: codes of 8 bits go in less 128, and the caller knows what that takes from the sum (`bias`). Elsewhere bytes widen to
16 bits and are multiplied and added in pairs (vpmaddwd); vpmaddubsw, which takes bytes, would saturate, but it serves codes of
4 bits, whose products leave 16 bits room for eight pairs.
"""

from __future__ import annotations

from .compat import T, ir, tirx
from .emit import Buffer, Value, let, local, store
from .target import VECTOR, TargetProfile
from .vector import LANES, Vec, lanes, splat

SUMS, PAIRS = "int32x16", "int16x32"
DOT_ARCHITECTURES = ("x86_64", "aarch64")
NEON = ("sdot", "usdot")
SIGN = 128
BYTES = 0x01010101  # the same byte four times


def bias(bits: int, target: TargetProfile) -> int:
    """What `dot4` has to take off every code of so many bits: 128 where codes of 8 bits are multiplied as signed bytes, else 0.

    The sum of the signed operands times this is missing in the sum of products.
    """
    return SIGN if bits == 8 and target.dots == "sdot" else 0


def dot4(acc: Vec, codes: Value, signed: Value, target: TargetProfile, less: int = 0) -> Vec:
    """acc int32x16 + sum of four products in every lane; the operands are int32x16 words of four bytes each.

    `codes` are unsigned and count less `less`: `bias(bits, target)`, or 0 where that is taken off them already.
    """
    if target.dots in NEON:
        return _by_quarters(acc, codes, signed, less, f"llvm.aarch64.neon.{target.dots}")
    if target.dots:
        u, s = T.reinterpret("uint8x64", codes), T.reinterpret("int8x64", signed)
        if target.vector_bits == 512:
            return T.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.vpdpbusd.512", acc, u, s)
        # In the VEX encoding where there is AVX-VNNI without AVX-512.
        return _by_halves("int32x8", "llvm.x86.avx512.vpdpbusd.256", acc, u, s)
    if target.kernels != VECTOR:
        return _byte_by_byte(acc, codes, signed)
    u, s = T.reinterpret("int16x32", codes), T.reinterpret("int16x32", signed)
    eight, low = T.broadcast(T.int16(8), 32), T.broadcast(T.int16(255), 32)
    even = (T.bitwise_and(u, low), T.shift_right(T.shift_left(s, eight), eight))
    odd = (T.bitwise_and(T.shift_right(u, eight), low), T.shift_right(s, eight))
    return acc + _pairs(*even, target) + _pairs(*odd, target)


def signed_codes(words: Vec, n: int = LANES) -> Vec:
    """Codes of 8 bits less 128, as signed bytes, in `n` words."""
    return T.bitwise_xor(words, T.broadcast(T.int32(SIGN * BYTES - 2**32), n))


def at_once(target: TargetProfile) -> int:
    """Words that `splats` loads together."""
    return 4 if target.dots in NEON else 1


def splats(
    words: Buffer, row: tuple[Value, ...], first: Value, count: int, target: TargetProfile, less: int = 0
) -> list[Vec]:
    """The words words[*row, first .. first + count - 1] of four bytes, each in all lanes, as operands of `dot4`.

    Arm multiplies by one word of a vector: four are loaded together, so memory has to hold a multiple of four of them. From codes
    `less` is taken off.
    """
    n = at_once(target)
    if n == 1:
        return [splat(words[(*row, first + i)]) for i in range(count)]
    loaded = [words[(*row, lanes(first + i, n))] for i in range(0, count, n)]
    loaded = [let("words", signed_codes(word, n) if less else word) for word in loaded]
    return [tirx.Shuffle([loaded[i // n]], [T.int32(i % n)] * n) for i in range(count)]


class BlockSums:
    """Adds up to eight words of a block, of four bytes each, to `count` int32 sums.

    Codes have `bits` bits and count less `less`, as in `dot4`. With 4, and pairs of bytes as the widest product, sums
    wait in 16 bits until `finish`: at most 8 * 2 * 15 * 127 = 30480. `vectors` where sums are elements and not 16 lanes of them.
    """

    def __init__(self, count: int, bits: int, target: TargetProfile, less: int = 0, *, vectors: bool = False) -> None:
        self.target, self.less, self.vectors = target, less, vectors
        self.pairs: Buffer | None = None
        if bits == 4 and not target.dots and target.kernels == VECTOR:
            # Indexed as the sums are: TVM 0.27 may give both the same memory, and then knows one way only.
            shape, dtype = ((count,), SUMS) if vectors else ((count, LANES), "int32")
            self.pairs = local("pairs", shape, dtype, registers=True)
            for at in range(count):
                store(self.pairs, self.place(at), splat(T.int32(0)))

    def add(self, sums: Buffer, index: Value, at: Value, codes: Value, signed: Value) -> None:
        """Add the products of a word to the sum number `at`, which lies at sums[index]."""
        if self.pairs is None:
            store(sums, index, dot4(sums[index], codes, signed, self.target, self.less))
        else:
            pairs = T.reinterpret(PAIRS, self.pairs[self.place(at)]) + _byte_pairs(codes, signed, self.target)
            store(self.pairs, self.place(at), T.reinterpret(SUMS, pairs))

    def place(self, at: Value) -> Value:
        """The index of the pairs of the sum number `at`."""
        return at if self.vectors else (at, lanes(0))

    def finish(self, sums: Buffer, index: Value, at: Value) -> None:
        """After the last word: the sum number `at` is complete."""
        if self.pairs is not None:
            ones = T.broadcast(T.int16(1), 32)
            pairs = T.reinterpret(PAIRS, self.pairs[self.place(at)])
            store(sums, index, sums[index] + _pairs(pairs, ones, self.target))


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


def _by_quarters(acc: Vec, codes: Value, signed: Value, less: int, name: str) -> Vec:
    """Four instructions of a quarter of the width; an operand of 4 lanes counts for each."""
    parts = []
    for number in range(4):
        u, s = quarter(codes, number), quarter(signed, number)
        if less:
            u = signed_codes(u, 4)
        operands = [T.reinterpret("uint8x16", u), T.reinterpret("int8x16", s)]
        if name.endswith(".sdot") and u is codes:
            operands.reverse()  # LLVM multiplies by an element of the second operand only
        parts.append(T.call_llvm_pure_intrin("int32x4", name, quarter(acc, number), *operands))
    return tirx.Shuffle(parts, [T.int32(lane) for lane in range(LANES)])


def quarter(v: Vec, number: int) -> Vec:
    """Lanes 4 * number .. 4 * number + 3 of 16, or all of 4."""
    return v if str(v.ty) == "int32x4" else tirx.Shuffle([v], [T.int32(4 * number + lane) for lane in range(4)])


def _byte_by_byte(acc: Vec, codes: Value, signed: Value) -> Vec:
    """The definition, for targets whose kernels are no vectors in the end."""
    for j in range(4):
        code = T.bitwise_and(T.shift_right(codes, splat(T.int32(8 * j))), splat(T.int32(255)))
        byte = T.shift_right(T.shift_left(signed, splat(T.int32(24 - 8 * j))), splat(T.int32(24)))
        acc = acc + code * byte
    return acc


def _lanes(dtype: str, times: int, over: int) -> str:
    """A vector type with `times / over` as many lanes."""
    element, lanes = dtype.split("x")
    return f"{element}x{int(lanes) * times // over}"
