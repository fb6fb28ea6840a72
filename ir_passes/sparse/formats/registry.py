"""The formats of the library in one list, for docs, tests and tools."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ....schedules.compat import tirx
from ..axes import Value
from ..format import Format
from .arrays import check_arrays
from .blocked import band, bsr, to_band, to_bsr
from .cascade import cascade, to_cascade
from .compressed import coo, csc, csr, dcsr, to_coo, to_csc, to_csr, to_dcsr
from .dense import dense, outliers, to_dense_and_outliers, to_dense_format
from .operand import CSR, Operand
from .padded import ell, hyb, to_ell, to_hyb
from .work import balanced, grouped, to_balanced, to_grouped


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """What all entries have: the factory, whose docstring describes and draws the format, and parameters for an example."""

    factory: Callable[..., Any]
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.factory.__name__

    @property
    def about(self) -> str:
        """The docstring without the drawing."""
        parts = self._parts()
        return "\n\n".join([parts[0], *parts[2:]])

    @property
    def drawing(self) -> str:
        """The format of `EXAMPLE`, drawn: the docstring's second paragraph."""
        return textwrap.dedent(self._parts()[1])

    def _parts(self) -> list[str]:
        return inspect.cleandoc(self.factory.__doc__ or "").split("\n\n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatrixFormat(Entry):
    """A format of m x n matrices. `symbolic(m, n, **params)` has variables for all extents that data decides."""

    symbolic: Callable[..., Format]
    convert: Callable[..., Operand]

    def operand(
        self, arrays: Sequence[np.ndarray], values: np.ndarray, shape: tuple[int, int], **params: Any
    ) -> Operand:
        """Arrays that the caller already has, as an operand. FormatError where they do not store a matrix of this shape."""
        fmt = self.symbolic(*shape, **params)
        check_arrays(fmt, arrays, values, shape)
        return Operand(fmt, tuple(arrays), values, shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Composition(Entry):
    """A decomposition of m x n matrices: its members sum to the matrix. `symbolic(m, n, **params)` are their formats."""

    symbolic: Callable[..., list[Format]]
    convert: Callable[..., list[Operand]]


def _variables(names: str) -> list[tirx.Var]:
    return [tirx.Var(name, "int64") for name in names.split()]


def _balanced(m: Value, n: Value, **_: Any) -> Format:
    nnz, bounds = _variables("nnz bounds")
    return balanced(m, n, nnz, bounds - 1)  # a shape can tell `bounds`, the length of an array, but not one less


def _grouped(m: Value, n: Value) -> Format:
    used, entries = _variables("used entries")
    return grouped(m, n, used, entries, disjoint=False)


MATRIX_FORMATS: dict[str, MatrixFormat] = {
    entry.name: entry
    for entry in (
        MatrixFormat(factory=dense, symbolic=dense, convert=lambda a: to_dense_format(a.to_dense())),
        MatrixFormat(factory=csr, symbolic=lambda m, n: csr(m, n, *_variables("nnz")), convert=to_csr),
        MatrixFormat(factory=csc, symbolic=lambda m, n: csc(m, n, *_variables("nnz")), convert=to_csc),
        MatrixFormat(factory=coo, symbolic=lambda m, n: coo(m, n, *_variables("nnz")), convert=to_coo),
        MatrixFormat(factory=dcsr, symbolic=lambda m, n: dcsr(m, n, *_variables("rows nnz")), convert=to_dcsr),
        MatrixFormat(factory=balanced, symbolic=_balanced, convert=to_balanced, params={"items": 2}),
        MatrixFormat(factory=ell, symbolic=lambda m, n: ell(m, n, *_variables("rows width")), convert=to_ell),
        MatrixFormat(
            factory=bsr,
            symbolic=lambda m, n, block: bsr(m, n, tirx.Var("blocks", "int64"), block),
            convert=to_bsr,
            params={"block": 2},
        ),
        MatrixFormat(factory=band, symbolic=band, convert=to_band, params={"lower": 1, "upper": 2}),
        MatrixFormat(
            factory=grouped,
            symbolic=_grouped,
            convert=to_grouped,
        ),
    )
}

COMPOSITIONS: dict[str, Composition] = {
    entry.name: entry
    for entry in (
        Composition(factory=hyb, symbolic=hyb, convert=to_hyb, params={"buckets": (1, 2)}),
        Composition(
            factory=outliers,
            symbolic=lambda m, n, **_: outliers(m, n, *_variables("nnz")),
            convert=lambda a, threshold: to_dense_and_outliers(a.to_dense(), threshold),
            params={"threshold": 4},
        ),
        Composition(
            factory=cascade,
            symbolic=lambda m, n: cascade(m, n, *_variables("columns rows nnz")),
            convert=to_cascade,
        ),
    )
}

LIBRARY: dict[str, MatrixFormat | Composition] = {**MATRIX_FORMATS, **COMPOSITIONS}

EXAMPLE = CSR.from_dense(
    np.array([[1, 0, 2, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 3, 4, 0, 5, 0], [0, 0, 0, 6, 0, 0]], np.float32)
)
"""The matrix of all drawings, a = 1 to f = 6."""
