"""Packed rows: activations [n, K] as [ceil(n / 12), K, 12], so that a register tile reads 12 rows of one k together.

The last tile repeats row n - 1, which makes its surplus sums harmless: no masks and no padding anywhere. The tile is
the same on every target (12 rows x 2 vectors fill the 32 registers of AVX-512; targets with 16 registers take it in
two halves of 6 rows), so packed rows look the same everywhere.
"""

from __future__ import annotations

import numpy as np

from ..target import TargetProfile

ROW_TILE = 12


def row_tile(target: TargetProfile) -> int:
    """Rows in one tile of packed rows."""
    return ROW_TILE


def pack_rows(x: np.ndarray) -> np.ndarray:
    """[n, K] to [ceil(n / 12), K, 12] in NumPy; the reference of the kernel `pack_rows`."""
    n, columns = x.shape
    rows = np.minimum(np.arange(-(-n // ROW_TILE) * ROW_TILE), n - 1)
    return np.ascontiguousarray(x[rows].reshape(-1, ROW_TILE, columns).transpose(0, 2, 1))


def unpack_rows(packed: np.ndarray) -> np.ndarray:
    """[tiles, K, 12] to [tiles * 12, K], repeated rows included."""
    return packed.transpose(0, 2, 1).reshape(-1, packed.shape[1])
