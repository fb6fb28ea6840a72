"""Compressed rows or columns, and lists of coordinates: csr, dcsr, csc, coo."""

from __future__ import annotations

import numpy as np

from ..axes import DenseFixed, SparseFixed, SparseVariable, Value
from ..format import Format
from .operand import CSR, Operand


def csr(m: Value, n: Value, nnz: Value, name: str = "csr") -> Format:
    """Compressed sparse rows: indptr [m + 1], column indices [nnz]; values [nnz].

    row       0     1    2       3
    indptr    0     2    2       5    6
    indices   0 2        1 2 4   3
    values    a b        c d e   f
    """
    levels = (DenseFixed("I", m), SparseVariable("J", n, nnz, m, f"{name}_"))
    return Format(name, levels, lambda i, j: (i.coord, j.coord))


def to_csr(a: CSR, name: str = "csr") -> Operand:
    """A matrix as csr."""
    return Operand(csr(*a.shape, a.nnz, name), (a.indptr, a.indices), a.data, a.shape)


def dcsr(m: Value, n: Value, rows: Value, nnz: Value, name: str = "dcsr") -> Format:
    """Doubly compressed, only rows that have entries: row ids [rows], indptr [rows + 1], column indices [nnz]; values [nnz].

    row id    0     2       3
    indptr    0     2       5    6
    indices   0 2   1 2 4   3
    values    a b   c d e   f
    """
    levels = (SparseFixed("I", m, rows, 1, f"{name}_"), SparseVariable("J", n, nnz, rows, f"{name}_"))
    return Format(name, levels, lambda i, j: (i.coord, j.coord))


def to_dcsr(a: CSR, name: str = "dcsr") -> Operand:
    """A matrix as dcsr."""
    rows = np.flatnonzero(a.counts).astype(np.int32)
    return rows_as_dcsr(a, rows, name)


def rows_as_dcsr(a: CSR, rows: np.ndarray, name: str) -> Operand:
    """The chosen rows as dcsr."""
    indptr, indices, data = a.take_rows(rows)
    return Operand(dcsr(*a.shape, len(rows), len(indices), name), (rows, indptr, indices), data, a.shape)


def csc(m: Value, n: Value, nnz: Value, name: str = "csc") -> Format:
    """Compressed sparse columns: indptr [n + 1], row indices [nnz]; values [nnz]. Coordinates are (row, column) all the same.

    column    0   1   2     3   4   5
    indptr    0   1   2     4   5   6   6
    indices   0   2   0 2   3   2
    values    a   c   b d   f   e
    """
    levels = (DenseFixed("J", n), SparseVariable("I", m, nnz, n, f"{name}_"))
    return Format(name, levels, lambda j, i: (i.coord, j.coord))


def to_csc(a: CSR, name: str = "csc") -> Operand:
    """A matrix as csc."""
    t = a.transposed()
    return Operand(csc(*a.shape, a.nnz, name), (t.indptr, t.indices), t.data, a.shape)


def coo(m: Value, n: Value, nnz: Value, name: str = "coo") -> Format:
    """Coordinates of every entry: row [nnz], column [nnz]; values [nnz, 1].

    row       0 0 2 2 2 3
    column    0 2 1 2 4 3
    values    a b c d e f
    """
    levels = (SparseFixed("I", m, nnz, 1, f"{name}_"), SparseFixed("J", n, 1, nnz, f"{name}_"))
    return Format(name, levels, lambda i, j: (i.coord, j.coord))


def to_coo(a: CSR, name: str = "coo") -> Operand:
    """A matrix as coo, sorted by rows."""
    return Operand(coo(*a.shape, a.nnz, name), (a.rows, a.indices), a.data.reshape(-1, 1), a.shape)
