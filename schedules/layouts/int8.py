"""8-bit codes: a matrix [N, K] as [tiles of 16 channels, K / 4, 64] bytes, byte channel * 4 + j of step l for k = 4 * l + j.

One 64-byte vector is the operand of one `dot4` over 16 channels and 4 adjacent k's.
"""

from __future__ import annotations

import numpy as np

from .tile16 import TILE, drop_padding, pad_rows, tiles

BLOCK = 4  # k's in one vector
LINE = 64  # bytes of a vector: 16 channels x 4 k's
ZERO = 128  # the code of padding, which means 0


def packed_shape(rows: int, columns: int, parts: int = 1) -> tuple[int, int, int]:
    """Shape of the codes of a matrix [rows, columns] of `parts` equal parts. Raises ValueError where these do not divide."""
    if columns < 1 or columns % BLOCK:
        raise ValueError(f"cannot pack {columns} columns of 8-bit codes: they are not a multiple of {BLOCK}")
    return tiles(rows, parts), columns // BLOCK, LINE


def pack(codes: np.ndarray, parts: int = 1) -> np.ndarray:
    """Codes uint8 [N, K] to bytes [tiles, K / 4, 64]; padding channels have the code 128.

    Raises ValueError where K is no multiple of 4 or N none of `parts`.
    """
    rows, columns = codes.shape
    shape = packed_shape(rows, columns, parts)
    tiled = pad_rows(codes, parts, ZERO).reshape(shape[0], TILE, shape[1], BLOCK)
    return np.ascontiguousarray(tiled.transpose(0, 2, 1, 3)).reshape(shape)


def unpack(packed: np.ndarray, rows: int, parts: int = 1) -> np.ndarray:
    """The inverse of `pack`: bytes [tiles, K / 4, 64] to codes uint8 [rows, K]."""
    count, steps = packed.shape[:2]
    tiled = packed.reshape(count, steps, TILE, BLOCK).transpose(0, 2, 1, 3)
    return drop_padding(tiled.reshape(count, TILE, steps * BLOCK), rows, parts)
