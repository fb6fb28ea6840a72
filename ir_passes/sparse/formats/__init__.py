"""The format library: formats as data, conversions of operands, checks of arrays. `LIBRARY` lists them all."""

from __future__ import annotations

from .arrays import check_arrays
from .blocked import band, bsr, to_band, to_bsr
from .cascade import cascade, to_cascade
from .compressed import coo, csc, csr, dcsr, to_coo, to_csc, to_csr, to_dcsr
from .dense import dense, outliers, to_dense_and_outliers, to_dense_format
from .operand import CSR, Operand
from .padded import ell, hyb, to_ell, to_hyb
from .registry import COMPOSITIONS, EXAMPLE, LIBRARY, MATRIX_FORMATS, Composition, MatrixFormat
from .work import balanced, group_arrays, grouped, item_rows, to_balanced, to_grouped

__all__ = [
    "COMPOSITIONS",
    "CSR",
    "Composition",
    "EXAMPLE",
    "LIBRARY",
    "MATRIX_FORMATS",
    "MatrixFormat",
    "Operand",
    "balanced",
    "band",
    "bsr",
    "cascade",
    "check_arrays",
    "coo",
    "csc",
    "csr",
    "dcsr",
    "dense",
    "ell",
    "group_arrays",
    "grouped",
    "hyb",
    "item_rows",
    "outliers",
    "to_balanced",
    "to_band",
    "to_bsr",
    "to_cascade",
    "to_coo",
    "to_csc",
    "to_csr",
    "to_dcsr",
    "to_dense_and_outliers",
    "to_dense_format",
    "to_ell",
    "to_grouped",
    "to_hyb",
]
