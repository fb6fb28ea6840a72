"""Blocks of entries at places that are cheap to name: bsr, and band."""

from __future__ import annotations

import numpy as np

from ....schedules.compat import T
from ..axes import DenseFixed, Point, SparseVariable, Value, index
from ..errors import FormatError
from ..format import Format
from .operand import CSR, Operand


def bsr(m: Value, n: Value, blocks: Value, block: int, name: str = "bsr") -> Format:
    """Block sparse rows: indptr [m / block + 1] and indices [blocks] of blocks; values [blocks, block, block].

    block row 0            block row 1             indptr    0 2 5
    a . | b . |            . c | d . | e .         indices   0 1 0 1 2
    . . | . . |            . . | . f | . .         zeros inside of a block are entries
    """
    rows, columns = m // block, n // block
    levels = (
        DenseFixed("IO", rows),
        SparseVariable("JO", columns, blocks, rows, f"{name}_"),
        DenseFixed("II", block),
        DenseFixed("JI", block),
    )
    return Format(name, levels, lambda io, jo, ii, ji: (io.coord * block + ii.coord, jo.coord * block + ji.coord))


def to_bsr(a: CSR, block: int, name: str = "bsr") -> Operand:
    """A matrix as bsr; both sides must be multiples of the block."""
    m, n = a.shape
    if m % block or n % block:
        raise FormatError(
            f"a matrix of {m} x {n} has no whole blocks of {block}",
            "blocks would overhang",
            "pad the matrix, or choose a divisor",
        )
    across = n // block
    key = (a.rows // block).astype(np.int64) * across + a.indices // block
    blocks, place = np.unique(key, return_inverse=True)
    values = np.zeros((len(blocks), block, block), a.data.dtype)
    values[place, a.rows % block, a.indices % block] = a.data
    indptr = np.searchsorted(blocks, np.arange(m // block + 1) * across).astype(np.int32)
    columns = (blocks - np.repeat(np.arange(m // block) * across, np.diff(indptr))).astype(np.int32)
    return Operand(bsr(m, n, len(blocks), block, name), (indptr, columns), values, a.shape)


def band(m: Value, n: Value, lower: int, upper: int, name: str = "band") -> Format:
    """`lower` diagonals below the main one and `upper` above: no arrays, the place is the rule; values [m, lower + 1 + upper].

    diagonal  -1  0 +1 +2
    row 0      *  a  .  b      * lies outside of the matrix and does not count
    row 1      .  .  .  .      zeros inside of the band are entries
    row 2      c  d  .  e
    row 3      .  f  .  .
    """
    levels = (DenseFixed("I", m), DenseFixed("D", lower + 1 + upper))

    def column(i: Point, d: Point) -> Value:
        return i.coord + d.coord - lower

    def valid(i: Point, d: Point) -> Value:
        return T.And(column(i, d) >= 0, column(i, d) < index(n))

    def coords(i: Point, d: Point) -> tuple[Value, Value]:
        return i.coord, T.max(T.min(column(i, d), index(n) - 1), index(0))  # in range where it is masked, too

    return Format(name, levels, coords, valid)


def to_band(a: CSR, lower: int, upper: int, name: str = "band") -> Operand:
    """A matrix as band; FormatError where an entry lies outside, and for rows without columns."""
    if a.shape[0] and not a.shape[1]:
        raise FormatError(
            f"a matrix of {a.shape[0]} x 0 has no diagonals",
            "a kernel reads a column where the band lies outside of the matrix, too",
            "use csr",
        )
    at = a.indices.astype(np.int64) - a.rows + lower
    if len(bad := np.flatnonzero((at < 0) | (at > lower + upper))):
        row, column = a.rows[bad[0]], a.indices[bad[0]]
        raise FormatError(
            f"the entry ({row}, {column}) lies outside of the band of {lower} and {upper} diagonals",
            "it would be lost",
            f"use at least {max(row - column, 0)} lower and {max(column - row, 0)} upper diagonals",
        )
    values = np.zeros((a.shape[0], lower + 1 + upper), a.data.dtype)
    values[a.rows, at] = a.data
    return Operand(band(*a.shape, lower, upper, name), (), values, a.shape)
