"""The tensor types of GGUF: how blocks of values are stored, and their decoding to `QuantTensor`.

Names, numbers and layouts are those of ggml (ggml-quants.h, ggml-common.h). A row is blocks of 32 or, for the K types, 256
values; a block is some bytes of scales and packed codes. Decoders take the bytes uint8 [rows, blocks, bytes of a block] and
give codes, scales and minima whose dequantized values are those of ggml's own decoder, bit by bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import ml_dtypes
import numpy as np

from ...quant_tensor import QuantInfo, QuantTensor

FLOATS = {0: ("float32", "<f4"), 1: ("float16", "<f2"), 30: ("bfloat16", ml_dtypes.bfloat16)}
"""Types without blocks by number: our name and NumPy's type."""


@dataclasses.dataclass(frozen=True)
class BlockType:
    """A type: name, values and bytes of a block; for the quantized ones that can be read, what they are and a decoder."""

    name: str
    elements: int
    bytes: int
    info: QuantInfo | None = None
    decode: Callable[[np.ndarray], QuantTensor] | None = None


def _halves(blocks: np.ndarray, start: int) -> np.ndarray:
    """The float16 at byte `start` of every block, as float32 [rows, blocks]."""
    return np.ascontiguousarray(blocks[..., start : start + 2]).view("<f2")[..., 0].astype(np.float32)


def _fields(packed: np.ndarray, bits: int, width: int) -> np.ndarray:
    """Codes of `bits` bits out of bytes: of each `width` bytes first all lowest fields, then the next, and so on.

    [rows, blocks, n] -> [rows, blocks, n * 8 / bits].
    """
    parts = packed.reshape(*packed.shape[:2], -1, 1, width)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return ((parts >> shifts) & np.uint8((1 << bits) - 1)).reshape(*packed.shape[:2], -1)


def _tensor(
    codes: np.ndarray, scales: np.ndarray, zero: float, mins: np.ndarray | None = None, *, offset: int = 0
) -> QuantTensor:
    """A QuantTensor of codes [rows, blocks, values], moved by `offset`, and scales [rows, blocks] or [rows, blocks, groups]."""
    rows = len(codes)
    codes = codes.reshape(rows, -1)
    if offset:
        codes = codes + np.uint8(offset)
    return QuantTensor(codes, scales.reshape(rows, -1), zero, None if mins is None else mins.reshape(rows, -1))


def _q4_0(blocks: np.ndarray) -> QuantTensor:
    return _tensor(_fields(blocks[..., 2:], 4, 16), _halves(blocks, 0), 8)


def _q4_1(blocks: np.ndarray) -> QuantTensor:
    return _tensor(_fields(blocks[..., 4:], 4, 16), _halves(blocks, 0), 0, _halves(blocks, 2))


def _fifth_bits(bits: np.ndarray) -> np.ndarray:
    """The highest bit of 5-bit codes, at its place: 4 bytes a block, bit i for value i."""
    return np.unpackbits(bits, axis=-1, bitorder="little") << np.uint8(4)


def _q5_0(blocks: np.ndarray) -> QuantTensor:
    codes = _fields(blocks[..., 6:], 4, 16) | _fifth_bits(blocks[..., 2:6])
    return _tensor(codes, _halves(blocks, 0), 128, offset=128 - 16)  # as 8-bit codes, which layouts hold


def _q5_1(blocks: np.ndarray) -> QuantTensor:
    codes = _fields(blocks[..., 8:], 4, 16) | _fifth_bits(blocks[..., 4:8])
    return _tensor(codes, _halves(blocks, 0), 0, _halves(blocks, 2))


def _q8_0(blocks: np.ndarray) -> QuantTensor:
    return _tensor(blocks[..., 2:] ^ np.uint8(128), _halves(blocks, 0), 128)  # int8 as excess-128 codes


def _k_scales(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales and minima [rows, blocks, 8] of Q4_K and Q5_K: float16 factors times 6-bit numbers, packed in 12 bytes.

    Bytes 0-3 and 4-7 have the first four scales and minima in their low 6 bits; bytes 8-11 have the low 4 bits of the other
    scales (low) and minima (high), whose top 2 bits are the top bits of bytes 0-7.
    """
    a, b, c = (blocks[..., start : start + 4] for start in (4, 8, 12))
    scales = np.concatenate([a & 63, c & 15 | a >> 2 & 48], axis=-1).astype(np.float32)
    mins = np.concatenate([b & 63, c >> 4 | b >> 2 & 48], axis=-1).astype(np.float32)
    return _halves(blocks, 0)[..., None] * scales, -(_halves(blocks, 2)[..., None] * mins)


def _q4_k(blocks: np.ndarray) -> QuantTensor:
    scales, mins = _k_scales(blocks)
    return _tensor(_fields(blocks[..., 16:], 4, 32), scales, 0, mins)


def _q5_k(blocks: np.ndarray) -> QuantTensor:
    scales, mins = _k_scales(blocks)
    high = _fields(blocks[..., 16:48], 1, 32)
    return _tensor(_fields(blocks[..., 48:], 4, 32) | high << np.uint8(4), scales, 0, mins)


def _q6_k(blocks: np.ndarray) -> QuantTensor:
    codes = _fields(blocks[..., :128], 4, 64) | _fields(blocks[..., 128:192], 2, 32) << np.uint8(4)
    scales = blocks[..., 192:208].view(np.int8).astype(np.float32)
    return _tensor(codes, _halves(blocks, 208)[..., None] * scales, 32)


def _q2_k(blocks: np.ndarray) -> QuantTensor:
    scales, mins = (blocks[..., :16] & 15).astype(np.float32), (blocks[..., :16] >> 4).astype(np.float32)
    scales, mins = _halves(blocks, 80)[..., None] * scales, -(_halves(blocks, 82)[..., None] * mins)
    return _tensor(_fields(blocks[..., 16:80], 2, 32), scales, 0, mins)


def _q3_k(blocks: np.ndarray) -> QuantTensor:
    codes = _fields(blocks[..., 32:96], 2, 32) | _fields(blocks[..., :32], 1, 32) << np.uint8(2)
    packed = blocks[..., 96:108]  # 8 bytes of low halves, 4 bytes of top bits
    scales = _fields(packed[..., :8], 4, 8) | _fields(packed[..., 8:], 2, 4) << np.uint8(4)
    return _tensor(codes, _halves(blocks, 108)[..., None] * (scales.astype(np.float32) - 32), 4)


def _quantized(
    name: str,
    elements: int,
    size: int,
    decode: Callable[[np.ndarray], QuantTensor],
    holds: str = "",
    suggests: str = "",
) -> BlockType:
    return BlockType(name, elements, size, QuantInfo(name, holds, suggests), decode)


TYPES: dict[int, BlockType] = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    2: _quantized("Q4_0", 32, 18, _q4_0, "w4-g32"),
    3: _quantized("Q4_1", 32, 20, _q4_1, "w4-g32-min"),
    6: _quantized("Q5_0", 32, 22, _q5_0, "w8-g32"),
    7: _quantized("Q5_1", 32, 24, _q5_1, "w8-g32-min"),
    8: _quantized("Q8_0", 32, 34, _q8_0, "w8-g32"),
    9: BlockType("Q8_1", 32, 40),
    10: _quantized("Q2_K", 256, 84, _q2_k, suggests="w4-g32"),
    11: _quantized("Q3_K", 256, 110, _q3_k, suggests="w4-g32"),
    12: _quantized("Q4_K", 256, 144, _q4_k, "w4-g32-min"),
    13: _quantized("Q5_K", 256, 176, _q5_k, "w8-g32-min"),
    14: _quantized("Q6_K", 256, 210, _q6_k, suggests="w8-g32"),  # groups of 16, smaller than the layouts'
    15: BlockType("Q8_K", 256, 292),
    16: BlockType("IQ2_XXS", 256, 66),
    17: BlockType("IQ2_XS", 256, 74),
    18: BlockType("IQ3_XXS", 256, 98),
    19: BlockType("IQ1_S", 256, 50),
    20: BlockType("IQ4_NL", 32, 18),
    21: BlockType("IQ3_S", 256, 110),
    22: BlockType("IQ2_S", 256, 82),
    23: BlockType("IQ4_XS", 256, 136),
    24: BlockType("I8", 1, 1),
    25: BlockType("I16", 1, 2),
    26: BlockType("I32", 1, 4),
    27: BlockType("I64", 1, 8),
    28: BlockType("F64", 1, 8),
    29: BlockType("IQ1_M", 256, 56),
    30: BlockType("BF16", 1, 2),
    34: BlockType("TQ1_0", 256, 54),
    35: BlockType("TQ2_0", 256, 66),
    39: BlockType("MXFP4", 32, 17),
    40: BlockType("NVFP4", 64, 36),
    41: BlockType("Q1_0", 128, 18),
}
"""Every type of ggml by number; those with neither a decoder nor an entry in FLOATS are refused by name."""

READABLE = tuple(t.name for number, t in TYPES.items() if number in FLOATS or t.decode)
