"""The tile32 layout: a weight matrix [N, K] as tiles of 32 output channels, [ceil(N / 32), K, 32].

A kernel's vector lanes are output channels, so one step over k reads 32 adjacent elements (a cache line of float16)
and no sum ever runs across lanes. Every row class reads the same tiles. Each part of a merged matrix (gate | up) is
padded to whole tiles with zero rows of its own, so that a part always starts at a tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TILE = 32


def tiles(rows: int) -> int:
    """Tiles that hold `rows` output channels."""
    return -(-rows // TILE)


def packed_shape(part_rows: Sequence[int], columns: int) -> tuple[int, int, int]:
    """Shape of the packed tensor of a matrix whose parts have `part_rows` rows each and `columns` columns."""
    return sum(tiles(n) for n in part_rows), columns, TILE


def pack(w: np.ndarray, parts: int = 1) -> np.ndarray:
    """Pack w [N, K] of any element type (bfloat16 as such or as its bits) to [parts * ceil(N / parts / 32), K, 32].

    The matrix is `parts` equal parts of N / parts rows. Only one tile is held beside the result, so a mapped file can
    be larger than memory. Raises ValueError where w is not a matrix or N is not a multiple of `parts`.
    """
    if w.ndim != 2 or parts < 1 or w.shape[0] % parts:
        raise ValueError(f"cannot pack {w.shape}: tile32 wants [N, K] with N a multiple of {parts} equal parts")
    rows, columns = w.shape[0] // parts, w.shape[1]
    out = np.zeros(packed_shape([rows] * parts, columns), w.dtype)
    for part in range(parts):
        for tile in range(tiles(rows)):
            block = w[part * rows + tile * TILE : part * rows + min((tile + 1) * TILE, rows)]
            out[part * tiles(rows) + tile, :, : len(block)] = block.T
    return out


def unpack(packed: np.ndarray, rows: int, parts: int = 1) -> np.ndarray:
    """The inverse of `pack`: [parts * ceil(rows / parts / 32), K, 32] to [rows, K].

    Raises ValueError where the shape is not that of a packed matrix of `rows` rows in `parts` parts.
    """
    if rows % parts or packed.ndim != 3 or packed.shape != packed_shape([rows // parts] * parts, packed.shape[1]):
        raise ValueError(f"{packed.shape} is not a tile32 matrix of {rows} rows in {parts} parts")
    per_part = packed.reshape(parts, -1, packed.shape[1], TILE).transpose(0, 1, 3, 2)
    return per_part.reshape(parts, -1, packed.shape[1])[:, : rows // parts].reshape(rows, -1)


def pad_vector(v: np.ndarray, parts: int = 1) -> np.ndarray:
    """A bias [N] padded as the tiles are: each of the `parts` equal parts to a multiple of 32 with zeros.

    Raises ValueError where v is not a vector or its length is not a multiple of `parts`.
    """
    if v.ndim != 1 or v.shape[0] % parts:
        raise ValueError(f"cannot pad {v.shape}: tile32 wants a vector [N] with N a multiple of {parts} equal parts")
    rows = v.shape[0] // parts
    out = np.zeros((parts, tiles(rows) * TILE), v.dtype)
    out[:, :rows] = v.reshape(parts, rows)
    return out.reshape(-1)
