"""Tiles of 16 output channels, which every quantized layout is made of, and the arrays with one value per channel and group.

Vector lanes are output channels: a step over k reads the 16 channels of a tile side by side. Each part of a merged
matrix (gate | up) is padded to whole tiles, so that a part always starts at a tile.
"""

from __future__ import annotations

import numpy as np

TILE = 16


def tiles(rows: int, parts: int = 1) -> int:
    """Tiles of a matrix of `rows` output channels in `parts` equal parts. Raises ValueError where they do not divide."""
    if rows < 1 or parts < 1 or rows % parts:
        raise ValueError(f"cannot tile {rows} rows: they are not a multiple of {parts} equal parts")
    return parts * -(-(rows // parts) // TILE)


def pad_rows(a: np.ndarray, parts: int, fill: float) -> np.ndarray:
    """[N, ...] to [tiles, 16, ...], each of the `parts` equal parts padded to whole tiles with `fill`."""
    count = tiles(len(a), parts)
    out = np.full((parts, count // parts * TILE, *a.shape[1:]), fill, a.dtype)
    out[:, : len(a) // parts] = a.reshape(parts, -1, *a.shape[1:])
    return out.reshape(count, TILE, *a.shape[1:])


def drop_padding(tiled: np.ndarray, rows: int, parts: int) -> np.ndarray:
    """The inverse of `pad_rows`: [tiles, 16, ...] to [rows, ...]. Raises ValueError where the tiles are not those of `rows`."""
    if tiled.shape[:2] != (tiles(rows, parts), TILE):
        raise ValueError(f"{tiled.shape} does not hold {rows} rows in {parts} parts in tiles of {TILE}")
    return tiled.reshape(parts, -1, *tiled.shape[2:])[:, : rows // parts].reshape(rows, *tiled.shape[2:])


def pack_groups(values: np.ndarray, parts: int = 1, fill: int = 0) -> np.ndarray:
    """Scales or zero points [N, groups] to [tiles, groups, 16]; the padding is `fill`."""
    return np.ascontiguousarray(pad_rows(values, parts, fill).transpose(0, 2, 1))


def unpack_groups(packed: np.ndarray, rows: int, parts: int = 1) -> np.ndarray:
    """The inverse of `pack_groups`: [tiles, groups, 16] to [rows, groups]."""
    return drop_padding(packed.transpose(0, 2, 1), rows, parts)


def pack_channels(values: np.ndarray, parts: int = 1) -> np.ndarray:
    """Channel scales or a bias [N] to [tiles, 16]; the padding is 0."""
    return pad_rows(values, parts, 0)


def unpack_channels(packed: np.ndarray, rows: int, parts: int = 1) -> np.ndarray:
    """The inverse of `pack_channels`: [tiles, 16] to [rows]."""
    return drop_padding(packed, rows, parts)
