"""Blocks of entries: bsr, and band.

bsr (blocks of 2 x 2)          band (lower 1, upper 1)
a a . . | . .                  a b . .
a a . . | . .                  c d e .
. . . . | b b                  . f g h
. . . . | b b                  . . i j
"""

from __future__ import annotations

import numpy as np

from ....schedules.compat import T
from ..axes import DenseFixed, Point, SparseVariable, Value, index
from ..errors import FormatError
from ..format import Format
from .operand import CSR, Operand


def bsr(m: Value, n: Value, blocks: Value, block: int, name: str = "bsr") -> Format:
    """Block sparse rows: indptr [m / block + 1] and indices [blocks] of blocks; values [blocks, block, block]."""
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
    rows, columns = a.rows // block, a.indices // block
    key = rows.astype(np.int64) * (n // block) + columns
    blocks, place = np.unique(key, return_inverse=True)
    values = np.zeros((len(blocks), block, block), a.data.dtype)
    values[place, a.rows % block, a.indices % block] = a.data
    indptr = np.searchsorted(blocks, np.arange(m // block + 1) * (n // block)).astype(np.int32)
    fmt = bsr(m, n, len(blocks), block, name)
    return Operand(fmt, (indptr, (blocks % (n // block)).astype(np.int32)), values)


def band(m: Value, n: Value, lower: int, upper: int, name: str = "band") -> Format:
    """`lower` diagonals below the main one and `upper` above; values [m, lower + 1 + upper]. No arrays: the place is the rule."""
    levels = (DenseFixed("I", m), DenseFixed("D", lower + 1 + upper))

    def column(i: Point, d: Point) -> Value:
        return i.coord + d.coord - lower

    def valid(i: Point, d: Point) -> Value:
        return T.And(column(i, d) >= 0, column(i, d) < index(n))

    def coords(i: Point, d: Point) -> tuple[Value, Value]:
        return i.coord, T.max(T.min(column(i, d), index(n) - 1), index(0))  # in range where it is masked, too

    return Format(name, levels, coords, valid)


def to_band(a: CSR, lower: int, upper: int, name: str = "band") -> Operand:
    """A matrix as band; FormatError where an entry lies outside."""
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
    return Operand(band(*a.shape, lower, upper, name), (), values)
