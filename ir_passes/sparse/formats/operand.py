"""A converted operand: a format, its arrays and the values, as NumPy arrays; and the CSR form that conversions start from."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..errors import FormatError
from ..format import Format
from .check import check_ascending, check_indices, check_indptr, check_range, describe
from .semantics import dense_of


@dataclasses.dataclass(frozen=True, eq=False)
class Operand:
    """A tensor of logical `shape`: `arrays` int32 in the order of `fmt.aux`, `values` of the shape that the format stores."""

    fmt: Format
    arrays: tuple[np.ndarray, ...]
    values: np.ndarray
    shape: tuple[int, ...]

    @property
    def params(self) -> tuple[np.ndarray, ...]:
        """Arrays, then values: what a kernel takes."""
        return (*self.arrays, self.values)

    def to_dense(self) -> np.ndarray:
        """The tensor that the format says is stored here: what every kernel is compared with."""
        return dense_of(self.fmt, self.arrays, self.values, self.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class CSR:
    """A matrix of shape (m, n): indptr int32[m + 1], indices int32[nnz] ascending in every row, data [nnz]."""

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        m, n = self.shape
        if not isinstance(self.data, np.ndarray) or self.data.ndim != 1:
            raise FormatError(f"data is {describe(self.data)}", "every entry has one value", "give a vector")
        check_indices("indices", self.indices, n)
        if len(self.indices) != len(self.data):
            raise FormatError(
                f"{len(self.indices)} indices for {len(self.data)} values",
                "every entry has both",
                "give as many of each",
            )
        check_indptr("indptr", self.indptr, m, len(self.indices))
        check_ascending("indices", self.indptr, self.indices)

    @classmethod
    def from_dense(cls, dense: np.ndarray) -> CSR:
        """The entries that are not 0 of a matrix [m, n]."""
        if dense.ndim != 2:
            raise FormatError(f"a matrix is wanted, this is {describe(dense)}", fix="give two dimensions")
        rows, columns = np.nonzero(dense)
        m, n = dense.shape
        return cls(_indptr(rows, m), columns.astype(np.int32), dense[rows, columns], (m, n))

    @classmethod
    def from_coordinates(cls, rows: np.ndarray, columns: np.ndarray, data: np.ndarray, shape: tuple[int, ...]) -> CSR:
        """Entries in any order; FormatError for duplicates and for coordinates out of range."""
        m, n = int(shape[0]), int(shape[1])
        if not len(rows) == len(columns) == len(data):
            raise FormatError(
                f"{len(rows)} rows, {len(columns)} columns and {len(data)} values",
                "every entry has all three",
                "give as many of each",
            )
        check_range("rows", rows, m)
        check_range("columns", columns, n)
        # One key sorts several times faster than lexsort; equal keys are refused, so their order does not matter.
        order = np.argsort(rows.astype(np.int64) * n + columns)
        return cls(_indptr(rows, m), columns[order].astype(np.int32), data[order], (m, n))

    @property
    def rows(self) -> np.ndarray:
        """The row of every entry, int32."""
        return np.repeat(np.arange(self.shape[0], dtype=np.int32), self.counts)

    @property
    def counts(self) -> np.ndarray:
        """Entries of every row."""
        return np.diff(self.indptr)

    @property
    def nnz(self) -> int:
        return len(self.indices)

    def to_dense(self) -> np.ndarray:
        """The matrix [m, n]."""
        dense = np.zeros(self.shape, self.data.dtype)
        dense[self.rows, self.indices] = self.data
        return dense

    def transposed(self) -> CSR:
        """The CSR form of the transpose."""
        return CSR.from_coordinates(self.indices, self.rows, self.data, self.shape[::-1])

    def where(self, keep: np.ndarray) -> CSR:
        """The entries that a mask bool[nnz] keeps."""
        return CSR(_indptr(self.rows[keep], self.shape[0]), self.indices[keep], self.data[keep], self.shape)

    def take_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """indptr, indices and data of the chosen rows only."""
        counts = self.counts[rows]
        indptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
        at = np.repeat(self.indptr[rows] - indptr[:-1], counts) + np.arange(indptr[-1])
        return indptr, self.indices[at], self.data[at]


def _indptr(rows: np.ndarray, m: int) -> np.ndarray:
    """int32[m + 1] of entries that stand in these rows."""
    return np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=m)))).astype(np.int32)
