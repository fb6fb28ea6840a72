"""Rows of equal length: ell, and hyb, which composes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....schedules.compat import tirx
from ..axes import SparseFixed, Value, buffer, index
from ..format import Format
from .compressed import dcsr, rows_as_dcsr
from .operand import CSR, Operand


def ell(m: Value, n: Value, rows: Value, width: Value, name: str = "ell") -> Format:
    """`width` entries in each of `rows` rows: row ids [rows], columns [rows * width], lengths [rows]; values [rows, width].

    row id   length   indices   values
    0        2        0 2 2     a b *      * is padding behind a row's entries: it does not count, holds 0, and
    1        0        0 0 0     * * *        repeats the last column, so that columns ascend and are in range
    2        3        1 2 4     c d e
    3        1        3 3 3     f * *
    """
    lengths = buffer(f"{name}_lengths", (rows,), "int32")
    levels = (SparseFixed("I", m, rows, 1, f"{name}_"), SparseFixed("J", n, width, rows, f"{name}_"))
    return Format(
        name,
        levels,
        lambda i, j: (i.coord, j.coord),
        valid=lambda i, j: j.rel < index(lengths[i.pos]),
        arrays=(lengths,),
    )


def to_ell(a: CSR, rows: np.ndarray | None = None, width: int | None = None, name: str = "ell") -> Operand:
    """The chosen rows (default: all), padded to `width` entries (default: the longest row)."""
    rows = np.arange(a.shape[0], dtype=np.int32) if rows is None else rows.astype(np.int32)
    counts = a.counts[rows].astype(np.int32)
    longest = int(counts.max(initial=0))
    width = longest if width is None else width
    if longest > width:
        raise ValueError(f"a row has {longest} entries, more than width={width}")
    indptr, indices, data = a.take_rows(rows)
    slot = np.arange(width)
    inside = slot < counts[:, None]
    values = np.zeros((len(rows), width), a.data.dtype)
    values[inside] = data
    # Behind its entries a row repeats its last one.
    at = indptr[:-1, None] + np.minimum(slot, np.maximum(counts - 1, 0)[:, None])
    columns = np.zeros((len(rows), width), np.int32)
    filled = counts > 0
    columns[filled] = indices[at[filled]]
    return Operand(ell(*a.shape, len(rows), width, name), (rows, columns.ravel(), counts), values, a.shape)


def hyb(m: Value, n: Value, buckets: Sequence[int], parts: int = 1, name: str = "hyb") -> list[Format]:
    """Column parts, and in each the rows by their number of entries: an ell member a bucket, longer rows in a dcsr tail.

        ell of 1   ell of 2   tail
        3 | f      0 | a b    2 | c d e      buckets 1 and 2, one column part

    Members are the same for every matrix, and may be empty, so that one compilation serves all. With one part, no row is in two
    members (Ye et al., SparseTIR).
    """
    members = []
    for part in range(parts):
        for width in buckets:
            rows = tirx.Var(f"{name}{part}_rows{width}", "int64")
            members.append(ell(m, n, rows, width, f"{name}{part}_ell{width}"))
        rows, nnz = (tirx.Var(f"{name}{part}_{what}", "int64") for what in ("rows", "nnz"))
        members.append(dcsr(m, n, rows, nnz, f"{name}{part}_tail"))
    for member in members:
        member.disjoint = parts == 1
    return members


def to_hyb(a: CSR, buckets: Sequence[int], parts: int = 1, name: str = "hyb") -> list[Operand]:
    """A matrix as the members of hyb; `buckets` are ascending widths, `parts` the number of column parts."""
    if list(buckets) != sorted(set(buckets)) or not buckets or buckets[0] < 1:
        raise ValueError(f"buckets={list(buckets)} must be ascending widths of at least 1")
    members = []
    bounds = [part * a.shape[1] // parts for part in range(parts + 1)]
    for part in range(parts):
        piece = a.where((a.indices >= bounds[part]) & (a.indices < bounds[part + 1])) if parts > 1 else a
        low = 0
        for width in buckets:
            rows = np.flatnonzero((piece.counts > low) & (piece.counts <= width))
            members.append(to_ell(piece, rows, width, f"{name}{part}_ell{width}"))
            low = width
        rows = np.flatnonzero(piece.counts > low).astype(np.int32)
        members.append(rows_as_dcsr(piece, rows, f"{name}{part}_tail"))
    for member in members:
        member.fmt.disjoint = parts == 1
    return members
