"""What several rows share, apart from what each has of its own: cascade (shared prefix and suffixes)."""

from __future__ import annotations

import numpy as np

from ..axes import DenseFixed, Point, SparseFixed, Value, buffer, index
from ..format import Format
from .compressed import csr, to_csr
from .operand import CSR, Operand


def cascade(m: Value, n: Value, columns: Value, rows: Value, nnz: Value, name: str = "cascade") -> list[Format]:
    """shared + csr, which sum to the matrix: the columns that a group of rows has in common, read once for all of them.

        . . b . . .       a . . . . .
        . . . . . .   +   . . . . . .      rows 0 and 2 share column 2: columns [1], rows [2], values [1, 2]
        . . d . . .       . c . . e .
        . . . . . .       . . . f . .

    With rows as requests and columns as tokens it is attention over a common prefix (Hydragen, FlashInfer's cascade), whose states
    merge instead of adding up.
    """
    group = buffer(f"{name}_rows", (rows,), "int32")

    def coords(j: Point, r: Point) -> tuple[Value, Value]:
        return index(group[r.coord]), j.coord

    levels = (SparseFixed("J", n, columns, 1, f"{name}_"), DenseFixed("R", rows))
    shared = Format(f"{name}_shared", levels, coords, arrays=(group,), disjoint=False)
    own = csr(m, n, nnz, f"{name}_own")
    own.disjoint = False
    return [shared, own]


def to_cascade(a: CSR, name: str = "cascade") -> list[Operand]:
    """The members of cascade: the group is the rows that have the most common column, the prefix what all of these have."""
    m, n = a.shape
    uses = np.bincount(a.indices, minlength=n)
    if a.nnz:
        group = a.rows[a.indices == np.argmax(uses)]
        inside = np.isin(a.rows, group)
        common = np.bincount(a.indices[inside], minlength=n) == len(group)
    else:
        group, inside, common = np.empty(0, np.int32), np.zeros(0, bool), np.zeros(n, bool)
    columns = np.flatnonzero(common).astype(np.int32)
    taken = inside & common[a.indices]
    values = a.data[taken].reshape(len(group), len(columns)).T
    own = to_csr(a.where(~taken), f"{name}_own")
    shared, left = cascade(m, n, len(columns), len(group), own.values.size, name)
    return [
        Operand(shared, (columns, group.astype(np.int32)), np.ascontiguousarray(values), a.shape),
        Operand(left, own.arrays, own.values, a.shape),
    ]
