"""Checks of arrays that a user gives for a format: each violation is a FormatError before any kernel runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import FormatError


def check_vector(name: str, array: Any, length: int | None = None) -> None:
    """An int32 vector, of `length` if given."""
    if not isinstance(array, np.ndarray) or array.dtype != np.int32 or array.ndim != 1:
        raise FormatError(
            f"{name} is {describe(array)}",
            "formats hold their arrays as int32 vectors",
            "convert it with np.asarray(..., np.int32)",
        )
    if length is not None and len(array) != length:
        raise FormatError(
            f"{name} has {len(array)} entries, {length} are needed", fix="give one entry for each position"
        )


def describe(array: Any) -> str:
    """The dtype and shape of an array, or the type of what is none."""
    return f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"


def check_indptr(name: str, indptr: np.ndarray, parents: int, entries: int) -> None:
    """indptr int32[parents + 1] ascends from 0 to the number of entries."""
    check_vector(name, indptr, parents + 1)
    if indptr[0] != 0 or indptr[-1] != entries:
        raise FormatError(
            f"{name} runs from {indptr[0]} to {indptr[-1]}, there are {entries} entries",
            "it must begin at 0 and end at their number",
            "build it as concatenate([0], cumsum(counts))",
        )
    if len(bad := np.flatnonzero(indptr[1:] < indptr[:-1])):
        raise FormatError(
            f"{name} descends at {bad[0]}: {indptr[bad[0]]}, then {indptr[bad[0] + 1]}",
            "a row would have fewer than no entries",
            "build it as concatenate([0], cumsum(counts))",
        )


def check_indices(name: str, indices: np.ndarray, length: int, count: int | None = None) -> None:
    """indices int32 in [0, length), `count` of them if given."""
    check_vector(name, indices, count)
    check_range(name, indices, length)


def check_range(name: str, indices: np.ndarray, length: int) -> None:
    """Integers of any width in [0, length)."""
    if len(bad := np.flatnonzero((indices < 0) | (indices >= length))):
        raise FormatError(
            f"{name}[{bad[0]}] is {indices[bad[0]]}, out of range for {length} coordinates",
            "the kernel would read outside of its operands",
            f"use coordinates from 0 to {length - 1}" if length else "a dimension of length 0 has no entries",
        )


def check_ascending(name: str, indptr: np.ndarray, indices: np.ndarray, repeats: bool = False) -> None:
    """Within every parent the indices ascend, without duplicates unless `repeats`."""
    wrong = indices[1:] < indices[:-1] if repeats else indices[1:] <= indices[:-1]
    ends = indptr[1:-1]
    wrong[ends[(ends > 0) & (ends < len(indices))] - 1] = False  # from one parent to the next
    if len(bad := np.flatnonzero(wrong)):
        at = bad[0]
        row = int(np.searchsorted(indptr, at, side="right")) - 1
        kind = "twice" if indices[at] == indices[at + 1] else f"before {indices[at + 1]}"
        raise FormatError(
            f"{name} has {indices[at]} {kind} in row {row}",
            "entries are searched by bisection, and an entry that stands twice would count twice or once, as it falls",
            "sort the indices of every row and sum duplicates (scipy: sum_duplicates())",
        )
