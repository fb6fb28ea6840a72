"""Dense operands as a format, alone and as one member of a decomposition: dense low-bit codes + sparse outliers."""

from __future__ import annotations

import numpy as np

from ..axes import DenseFixed, Value
from ..format import Format
from .compressed import csr, to_csr
from .operand import CSR, Operand


def dense(m: Value, n: Value, name: str = "dense") -> Format:
    """All entries, no arrays: values [m, n].

    a . b . . .
    . . . . . .
    . c d . e .
    . . . f . .
    """
    return Format(name, (DenseFixed("I", m), DenseFixed("J", n)), lambda i, j: (i.coord, j.coord))


def to_dense_format(a: np.ndarray, name: str = "dense") -> Operand:
    """A matrix as it is."""
    m, n = a.shape
    return Operand(dense(m, n, name), (), np.ascontiguousarray(a), (m, n))


def outliers(m: Value, n: Value, nnz: Value, name: str = "outliers") -> list[Format]:
    """dense + csr, which sum to the matrix: the few large entries apart (Atom, KVQuant, SpQR), so that the rest fits few bits.

    a . b . . .       . . . . . .
    . . . . . .   +   . . . . . .      the outliers' places in the dense member hold 0
    . c d . . .       . . . . e .
    . . . . . .       . . . f . .
    """
    above = csr(m, n, nnz, name)
    above.disjoint = False
    return [dense(m, n, f"{name}_rest"), above]


def to_dense_and_outliers(a: np.ndarray, threshold: float, name: str = "outliers") -> list[Operand]:
    """Two members that sum to the matrix [m, n]: entries of magnitude up to `threshold`, and csr of those above."""
    above = np.abs(a) > threshold
    large = to_csr(CSR.from_dense(np.where(above, a, 0)), name)
    large.fmt.disjoint = False
    return [to_dense_format(np.where(above, 0, a).astype(a.dtype), f"{name}_rest"), large]
