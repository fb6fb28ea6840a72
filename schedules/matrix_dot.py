"""Products of 2 x 8 by 8 x 2 bytes (Arm's usmmla, of i8mm): twice the multiplications of a dot product in one instruction.

Sums of two rows over 16 channels are two vectors of 16 lanes, row after row, as elsewhere; or while products are added
interleaved: [channel 0 row 0, channel 0 row 1, channel 1 row 0, ...], channels 0..7 in the first vector and 8..15 in the second. A
quarter of such a vector is the 2 x 2 result of one instruction, and interleaved codes of two words are its operands.
"""

from __future__ import annotations

from .compat import T, tirx
from .emit import Value
from .target import TargetProfile
from .vector import LANES, Vec

PIECE = 4  # lanes of an instruction


def multiplies_matrices(target: TargetProfile) -> bool:
    """Whether the target has the instruction."""
    return target.dots == "usdot"


def interleaved(a: Vec, b: Vec) -> tuple[Vec, Vec]:
    """[a0, b0, a1, b1, ...] of two int32x16, its first and its second half."""
    order = [lane // 2 + lane % 2 * LANES for lane in range(2 * LANES)]
    return _shuffled([a, b], order[:LANES]), _shuffled([a, b], order[LANES:])


def apart(low: Vec, high: Vec) -> tuple[Vec, Vec]:
    """The inverse of `interleaved`."""
    return _shuffled([low, high], range(0, 2 * LANES, 2)), _shuffled([low, high], range(1, 2 * LANES, 2))


def row_pair(a: Vec, b: Vec) -> tuple[Vec, Vec]:
    """Of four words of two rows, int32x4 each: the operands of `matrix_dots` for the first two words and for the others."""
    return _shuffled([a, b], (0, 1, 4, 5)), _shuffled([a, b], (2, 3, 6, 7))


def matrix_dots(acc: Vec, codes: Vec, rows: Vec) -> Vec:
    """acc, interleaved, + the products of 8 channels with two rows over two words: four bytes each.

    `codes` int32x16 has unsigned bytes, the two words of each channel side by side; `rows` int32x4 signed ones, the two words of
    the first row, then those of the second.
    """
    parts = []
    for first in range(0, LANES, PIECE):
        piece = range(first, first + PIECE)
        operands = T.reinterpret("uint8x16", _shuffled([codes], piece)), T.reinterpret("int8x16", rows)
        parts.append(T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.usmmla", _shuffled([acc], piece), *operands))
    return _shuffled(parts, range(LANES))


def _shuffled(vectors: list[Vec], order: range | tuple[int, ...] | list[int]) -> Value:
    return tirx.Shuffle(vectors, [T.int32(lane) for lane in order])
