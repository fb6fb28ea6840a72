"""4-bit codes: a matrix [N, K] as [tiles of 16 channels, K / 32, 4, 64] bytes.

Byte l * 64 + channel * 4 + j of block b holds k = 32 * b + 4 * l + j in its low nibble and k + 16 in its high one. So a
64-byte vector masked (or shifted by 4) is the operand of one `dot4` over 16 channels and 4 adjacent k's.
"""

from __future__ import annotations

import numpy as np

from .tile16 import TILE, drop_padding, pad_rows, tiles

BLOCK = 32  # k's in one block
STEPS = 4  # 64-byte vectors in one block
LINE = 64  # bytes of a vector: 16 channels x 4 k's
ZERO = 8  # the code of padding, which means 0


def packed_shape(rows: int, columns: int, parts: int = 1) -> tuple[int, int, int, int]:
    """Shape of the codes of a matrix [rows, columns] of `parts` equal parts. Raises ValueError where these do not divide."""
    if columns < 1 or columns % BLOCK:
        raise ValueError(f"cannot pack {columns} columns of 4-bit codes: they are not a multiple of {BLOCK}")
    return tiles(rows, parts), columns // BLOCK, STEPS, LINE


def pack(codes: np.ndarray, parts: int = 1) -> np.ndarray:
    """Codes 0..15 as uint8 [N, K] to bytes [tiles, K / 32, 4, 64]; padding channels have the code 8.

    Raises ValueError where K is no multiple of 32 or N none of `parts`.
    """
    rows, columns = codes.shape
    shape = packed_shape(rows, columns, parts)
    # [tile, channel, block, nibble, l, j] -> [tile, block, nibble, l, channel, j]
    k = pad_rows(codes, parts, ZERO).reshape(shape[0], TILE, shape[1], 2, STEPS, 4).transpose(0, 2, 3, 4, 1, 5)
    return (k[:, :, 0] | k[:, :, 1] << np.uint8(4)).reshape(shape)


def unpack(packed: np.ndarray, rows: int, parts: int = 1) -> np.ndarray:
    """The inverse of `pack`: bytes [tiles, K / 32, 4, 64] to codes uint8 [rows, K]."""
    count, blocks = packed.shape[:2]
    nibbles = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], 2).reshape(count, blocks, 2, STEPS, TILE, 4)
    return drop_padding(nibbles.transpose(0, 4, 1, 2, 3, 5).reshape(count, TILE, blocks * BLOCK), rows, parts)
