"""Checks of arrays that a user gives for a format: each violation is a FormatError before any kernel runs."""

from __future__ import annotations

import numpy as np

from ..errors import FormatError


def check_vector(name: str, array: np.ndarray, length: int | None = None) -> None:
    """An int32 vector, of `length` if given."""
    if array.dtype != np.int32 or array.ndim != 1:
        raise FormatError(
            f"{name} is {array.dtype}{list(array.shape)}",
            "formats hold their arrays as int32 vectors",
            "convert it with astype",
        )
    if length is not None and len(array) != length:
        raise FormatError(
            f"{name} has {len(array)} entries, {length} are needed", fix="give one entry for each position"
        )


def check_indptr(name: str, indptr: np.ndarray, parents: int, entries: int) -> None:
    """indptr int32[parents + 1] ascends from 0 to the number of entries."""
    check_vector(name, indptr, parents + 1)
    if indptr[0] != 0 or indptr[-1] != entries:
        raise FormatError(
            f"{name} runs from {indptr[0]} to {indptr[-1]}, there are {entries} entries",
            "it must begin at 0 and end at their number",
            "build it as concatenate([0], cumsum(counts))",
        )
    if len(bad := np.flatnonzero(np.diff(indptr) < 0)):
        raise FormatError(
            f"{name} descends at {bad[0]}: {indptr[bad[0]]}, then {indptr[bad[0] + 1]}",
            "a row would have fewer than no entries",
            "build it as concatenate([0], cumsum(counts))",
        )


def check_indices(name: str, indices: np.ndarray, length: int, count: int | None = None) -> None:
    """indices int32 in [0, length)."""
    check_vector(name, indices, count)
    if len(bad := np.flatnonzero((indices < 0) | (indices >= length))):
        raise FormatError(
            f"{name}[{bad[0]}] is {indices[bad[0]]}, out of range for {length} coordinates",
            "the kernel would read outside of its operands",
            f"use coordinates from 0 to {length - 1}",
        )


def check_ascending(name: str, indptr: np.ndarray, indices: np.ndarray) -> None:
    """Within every parent the indices ascend, without duplicates."""
    inside = np.ones(max(len(indices) - 1, 0), bool)
    ends = indptr[1:-1]
    inside[ends[(ends > 0) & (ends < len(indices))] - 1] = False
    steps = np.diff(indices)
    if len(bad := np.flatnonzero(inside & (steps <= 0))):
        row = int(np.searchsorted(indptr, bad[0], side="right")) - 1
        kind = "twice" if steps[bad[0]] == 0 else f"before {indices[bad[0] + 1]}"
        raise FormatError(
            f"{name} has {indices[bad[0]]} {kind} in row {row}",
            "entries are searched by bisection, and an entry that stands twice would count twice or once, as it falls",
            "sort the indices of every row and sum duplicates (scipy: sum_duplicates())",
        )


def check_values(name: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
    """Values of the shape that the format stores."""
    if values.shape != shape:
        raise FormatError(
            f"{name} is {list(values.shape)}, its format stores {list(shape)}", fix="convert the operand again"
        )
