"""The format library: formats as data, conversions of operands, checks of arrays. `LIBRARY` lists the matrix formats."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ....schedules.compat import tirx
from ..format import Format
from .blocked import band, bsr, to_band, to_bsr
from .compressed import coo, csc, csr, dcsr, to_coo, to_csc, to_csr, to_dcsr
from .dense import dense, to_dense_and_outliers, to_dense_format
from .operand import CSR, Operand
from .padded import ell, to_ell, to_hyb
from .work import balanced, group_arrays, grouped, item_rows, to_balanced

__all__ = [
    "CSR",
    "LIBRARY",
    "MatrixFormat",
    "Operand",
    "balanced",
    "band",
    "bsr",
    "coo",
    "csc",
    "csr",
    "dcsr",
    "dense",
    "ell",
    "group_arrays",
    "grouped",
    "item_rows",
    "to_balanced",
    "to_band",
    "to_bsr",
    "to_coo",
    "to_csc",
    "to_csr",
    "to_dcsr",
    "to_dense_and_outliers",
    "to_dense_format",
    "to_ell",
    "to_hyb",
]


@dataclasses.dataclass(frozen=True)
class MatrixFormat:
    """A format of m x n matrices: `symbolic()` has variables for all extents that data decides; `convert(a)` fills it.

    `divisor`: both sides of the matrix must be multiples of it.
    """

    name: str
    symbolic: Callable[[], Format]
    convert: Callable[[CSR], Operand]
    divisor: int = 1


def _vars(names: str) -> list[tirx.Var]:
    return [tirx.Var(name, "int64") for name in names.split()]


BLOCK, BAND = 4, 5


def _symbolic_balanced() -> Format:
    m, n, nnz, bounds = _vars("m n nnz bounds")
    return balanced(m, n, nnz, bounds - 1)  # a shape can tell `bounds`, the length of an array, but not one less


LIBRARY: dict[str, MatrixFormat] = {
    f.name: f
    for f in (
        MatrixFormat("csr", lambda: csr(*_vars("m n nnz")), to_csr),
        MatrixFormat("csc", lambda: csc(*_vars("m n nnz")), to_csc),
        MatrixFormat("coo", lambda: coo(*_vars("m n nnz")), to_coo),
        MatrixFormat("dcsr", lambda: dcsr(*_vars("m n rows nnz")), to_dcsr),
        MatrixFormat("ell", lambda: ell(*_vars("m n rows width")), to_ell),
        MatrixFormat("bsr", lambda: bsr(*_vars("m n blocks"), BLOCK), lambda a: to_bsr(a, BLOCK), BLOCK),
        MatrixFormat("band", lambda: band(*_vars("m n"), BAND, BAND), lambda a: to_band(a, BAND, BAND)),
        MatrixFormat("balanced", _symbolic_balanced, lambda a: to_balanced(a, 3)),
        MatrixFormat("dense", lambda: dense(*_vars("m n")), lambda a: to_dense_format(a.to_dense())),
    )
}
