"""Rows of equal length: ell, and hyb, which composes it.

ell (2 entries a row, * is padding)      hyb: rows by length into ell members, long ones into a dcsr tail
rows 0 2 5                               ell1: rows of 1       ell4: rows of 2 to 4      tail: longer rows
cols 1 4 | 0 * | 3 5                     | * |                 | * * * . |               | * * * * * * |
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..axes import SparseFixed, Value
from ..format import Format
from .compressed import dcsr
from .operand import CSR, Operand


def ell(m: Value, n: Value, rows: Value, width: int, name: str = "ell") -> Format:
    """`width` entries in each of `rows` rows: row ids [rows], columns [rows * width]; values [rows, width], padding 0."""
    levels = (SparseFixed("I", m, rows, 1, f"{name}_"), SparseFixed("J", n, width, rows, f"{name}_"))
    return Format(name, levels, lambda i, j: (i.coord, j.coord))


def to_ell(a: CSR, rows: np.ndarray | None = None, width: int | None = None, name: str = "ell") -> Operand:
    """The chosen rows (default: all) padded to `width` entries (default: the longest row); padding is column 0, value 0."""
    rows = np.arange(a.shape[0], dtype=np.int32) if rows is None else rows.astype(np.int32)
    counts = a.counts[rows]
    width = int(counts.max(initial=0)) if width is None else width
    if counts.max(initial=0) > width:
        raise ValueError(f"a row has {counts.max()} entries, more than width={width}")
    indptr, indices, data = a.take_rows(rows)
    row = np.repeat(np.arange(len(rows)), counts)
    slot = np.arange(len(indices)) - indptr[row]
    columns = np.zeros((len(rows), width), np.int32)
    values = np.zeros((len(rows), width), a.data.dtype)
    columns[row, slot] = indices
    values[row, slot] = data
    return Operand(ell(*a.shape, len(rows), width, name), (rows, columns.ravel()), values)


def to_hyb(a: CSR, buckets: Sequence[int], parts: int = 1, name: str = "hyb") -> list[Operand]:
    """Column parts, and in each the rows by their number of entries into ell members; longer rows into a dcsr tail.

    `buckets` are ascending widths. Members without rows are left out. With one part, no row is in two members (SparseTIR's hyb).
    """
    if list(buckets) != sorted(set(buckets)) or not buckets or buckets[0] < 1:
        raise ValueError(f"buckets={list(buckets)} must be ascending widths of at least 1")
    members = []
    bounds = [part * a.shape[1] // parts for part in range(parts + 1)]
    for part in range(parts):
        inside = (a.indices >= bounds[part]) & (a.indices < bounds[part + 1])
        piece = CSR.from_coordinates(a.rows[inside], a.indices[inside], a.data[inside], a.shape)
        low = 0
        for width in buckets:
            rows = np.flatnonzero((piece.counts > low) & (piece.counts <= width))
            low = width
            if len(rows):
                members.append(to_ell(piece, rows, width, f"{name}{part}_ell{width}"))
        rows = np.flatnonzero(piece.counts > low).astype(np.int32)
        if len(rows):
            indptr, indices, data = piece.take_rows(rows)
            fmt = dcsr(*a.shape, len(rows), len(indices), f"{name}{part}_tail")
            members.append(Operand(fmt, (rows, indptr, indices), data))
    for member in members:
        member.fmt.disjoint = parts == 1
    return members
