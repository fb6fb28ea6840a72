"""The check of all arrays of a format at once: `check_arrays`, for any format, of the library or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....schedules.compat import ir, tirx
from ..axes import Axis
from ..errors import FormatError
from ..format import Format, symbols
from .check import check_ascending, check_indices, check_indptr, check_range
from .semantics import Env, bind, decided, evaluate, stored


def check_arrays(
    fmt: Format,
    arrays: Sequence[np.ndarray],
    values: np.ndarray,
    shape: Sequence[int],
    *,
    dtype: str | None = None,
    known: Mapping[Any, int] | None = None,
) -> None:
    """FormatError unless `arrays` (in the order of `fmt.aux`) and `values` store a tensor of this shape.

    Extents that are variables are taken from the arrays' lengths, or from `known`. Checked are: number, dtype, rank and length of
    the arrays; indptr; coordinates in range, of padding too, and ascending under every parent; no entry twice; the shape that
    the format was made for; and, if given, the values' dtype.
    """
    env = bind(fmt, arrays, values, known)
    if dtype is not None and values.dtype != dtype:
        raise FormatError(f"the values of {fmt.name} are {values.dtype}", f"{dtype} is read", "convert with astype")
    _check_shape(fmt, values, shape, env)
    parents = 1
    for number, level in enumerate(fmt.levels):
        parents = _check_level(fmt, number, level, parents, env)
    coordinates, _, counts = stored(fmt, env)
    for dim, (coordinate, length) in enumerate(zip(coordinates, shape, strict=False)):
        check_range(f"coordinate {dim} of {fmt.name}", coordinate, length)  # of padding, too: kernels read there
    _check_once(fmt, coordinates if counts is None else [c[counts] for c in coordinates], shape)


def _check_shape(fmt: Format, values: np.ndarray, shape: Sequence[int], env: Env) -> None:
    """The format was made for this shape, as far as its coordinates tell: not where they are data, or cut off (band)."""
    own = len(fmt.storage())
    if len(shape) < fmt.ndim or values.shape[own:] != tuple(shape[fmt.ndim :]):
        raise FormatError(
            f"values of {list(values.shape)} in {fmt.name} on a tensor of {list(shape)}",
            f"the format stores {fmt.ndim} dimensions in {own}; those that follow are dense",
            "use the operand's own shape",
        )
    at = symbols(fmt.levels)
    last: Env = dict(env)
    parents: Any = 1
    for level, point in zip(fmt.levels, at, strict=True):
        parents = decided(fmt, level.size(parents), env)
        last |= {point.pos: parents - 1, point.coord: decided(fmt, level.length, env) - 1}
    for dim, coordinate in enumerate(fmt.coords(*at)):
        if _ascends(coordinate, last) and (length := evaluate(coordinate, last) + 1) != shape[dim]:
            raise FormatError(
                f"{fmt.name} is {length} long in dimension {dim}, the tensor {shape[dim]}",
                "the format was made for a tensor of another shape",
                "convert this tensor, or use the one that was converted",
            )


def _ascends(expr: Any, last: Env) -> bool:
    """Whether an expression is largest at the last coordinates: a sum of them, each times a number (a block's size)."""
    if isinstance(expr, tirx.Add):
        return _ascends(expr.a, last) and _ascends(expr.b, last)
    if isinstance(expr, tirx.Mul):
        return _ascends(expr.a, last) and isinstance(expr.b, tirx.IntImm) and bool(expr.b.value > 0)
    return isinstance(expr, ir.Var) and expr in last


def _check_level(fmt: Format, number: int, level: Axis, parents: int, env: Env) -> int:
    """The arrays of one level; returns its number of positions."""
    size = int(evaluate(level.size(parents), env))
    if level.variable:
        buffer = level.aux[0]
        check_indptr(buffer.name, env[buffer], parents, size)
        indptr = env[buffer]
    else:
        indptr = np.arange(parents + 1) * int(evaluate(level.extent(0), env))
    if level.sparse:
        buffer = level.aux[-1]
        check_indices(buffer.name, env[buffer], int(evaluate(level.length, env)), size)
        check_ascending(buffer.name, indptr, env[buffer], repeats=_may_repeat(fmt, number, env))
    return size


def _may_repeat(fmt: Format, number: int, env: Env) -> bool:
    """Whether a coordinate may stand twice under one parent: padding does, and the rows of coo, with one entry under each."""
    if number + 1 == len(fmt.levels):
        return fmt.valid is not None
    below = fmt.levels[number + 1]
    return not below.variable and evaluate(below.extent(0), env) == 1


def _check_once(fmt: Format, coordinates: Sequence[np.ndarray], shape: Sequence[int]) -> None:
    """No two entries have the same coordinates."""
    key = np.zeros(len(coordinates[0]), np.int64)
    for coordinate, length in zip(coordinates, shape, strict=False):
        key = key * length + coordinate
    if (key[1:] > key[:-1]).all():
        return
    key = np.sort(key)
    if len(bad := np.flatnonzero(key[1:] == key[:-1])):
        where = tuple(int(c) for c in np.unravel_index(key[bad[0]], tuple(shape[: len(coordinates)])))
        raise FormatError(
            f"{fmt.name} has the entry {where} twice",
            "it would count twice, and a search would find one of the two",
            "sum duplicates before the conversion (scipy: sum_duplicates())",
        )
