"""Compressed rows or columns: csr, dcsr, csc, and coo.

csr                     dcsr                     csc                      coo
row 0 | 1 4             only rows that           the same by              (row, col) of
row 1 |                 have entries:            columns                  every entry
row 2 | 0               row 0 | 1 4                                       (0,1) (0,4) (2,0)
                        row 2 | 0
"""

from __future__ import annotations

import numpy as np

from ..axes import DenseFixed, SparseFixed, SparseVariable, Value
from ..format import Format
from .operand import CSR, Operand


def csr(m: Value, n: Value, nnz: Value, name: str = "csr") -> Format:
    """Compressed sparse rows: indptr [m + 1], column indices [nnz]; values [nnz]."""
    levels = (DenseFixed("I", m), SparseVariable("J", n, nnz, m, f"{name}_"))
    return Format(name, levels, lambda i, j: (i.coord, j.coord))


def to_csr(a: CSR, name: str = "csr") -> Operand:
    """A matrix as csr."""
    return Operand(csr(*a.shape, a.nnz, name), (a.indptr, a.indices), a.data)


def dcsr(m: Value, n: Value, rows: Value, nnz: Value, name: str = "dcsr") -> Format:
    """Doubly compressed: row ids [rows], indptr [rows + 1], column indices [nnz]; values [nnz]."""
    levels = (SparseFixed("I", m, rows, 1, f"{name}_"), SparseVariable("J", n, nnz, rows, f"{name}_"))
    return Format(name, levels, lambda i, j: (i.coord, j.coord))


def to_dcsr(a: CSR, name: str = "dcsr") -> Operand:
    """A matrix as dcsr: the rows that have entries."""
    rows = np.flatnonzero(a.counts).astype(np.int32)
    indptr, indices, data = a.take_rows(rows)
    return Operand(dcsr(*a.shape, len(rows), a.nnz, name), (rows, indptr, indices), data)


def csc(m: Value, n: Value, nnz: Value, name: str = "csc") -> Format:
    """Compressed sparse columns: indptr [n + 1], row indices [nnz]; values [nnz]. Coordinates are (row, column) all the same."""
    levels = (DenseFixed("J", n), SparseVariable("I", m, nnz, n, f"{name}_"))
    return Format(name, levels, lambda j, i: (i.coord, j.coord))


def to_csc(a: CSR, name: str = "csc") -> Operand:
    """A matrix as csc."""
    t = a.transposed()
    return Operand(csc(*a.shape, a.nnz, name), (t.indptr, t.indices), t.data)


def coo(m: Value, n: Value, nnz: Value, name: str = "coo") -> Format:
    """Coordinates: row [nnz], column [nnz]; values [nnz, 1]."""
    levels = (SparseFixed("I", m, nnz, 1, f"{name}_"), SparseFixed("J", n, 1, nnz, f"{name}_"))
    return Format(name, levels, lambda i, j: (i.coord, j.coord))


def to_coo(a: CSR, name: str = "coo") -> Operand:
    """A matrix as coo, sorted by rows."""
    return Operand(coo(*a.shape, a.nnz, name), (a.rows, a.indices), a.data.reshape(-1, 1))
