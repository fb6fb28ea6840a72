"""Dense operands as a format, alone and as one member of a decomposition: dense low-bit codes + sparse outliers.

dense + outliers (Atom, KVQuant, SpQR)
q q q q       . . . .
q q q q   +   . . X .      the outliers' places in the dense member hold 0
q q q q       X . . .
"""

from __future__ import annotations

import numpy as np

from ..axes import DenseFixed, Value
from ..format import Format
from .compressed import to_csr
from .operand import CSR, Operand


def dense(m: Value, n: Value, name: str = "dense") -> Format:
    """All entries: values [m, n], no arrays."""
    return Format(name, (DenseFixed("I", m), DenseFixed("J", n)), lambda i, j: (i.coord, j.coord))


def to_dense_format(a: np.ndarray, name: str = "dense") -> Operand:
    """A matrix as it is."""
    return Operand(dense(*a.shape, name), (), np.ascontiguousarray(a))


def to_dense_and_outliers(a: np.ndarray, threshold: float, name: str = "outliers") -> list[Operand]:
    """Two members that sum to the matrix [m, n]: entries of magnitude up to `threshold`, and csr of those above."""
    above = np.abs(a) > threshold
    outliers = to_csr(CSR.from_dense(np.where(above, a, 0)), name)
    outliers.fmt.disjoint = False
    return [to_dense_format(np.where(above, 0, a).astype(a.dtype), f"{name}_rest"), outliers]
