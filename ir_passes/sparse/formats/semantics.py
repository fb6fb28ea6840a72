"""What a format says is stored, in NumPy: its levels and expressions are interpreted over all entries at once.

It is the third opinion beside conversion and lowering, and needs neither: the oracle of the tests, and the ground of the checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ....schedules.compat import ir, tirx
from ..axes import INDEX, Point
from ..errors import FormatError
from ..format import Format, symbols
from ..text import text
from .check import check_vector, describe

Env = dict[Any, Any]
"""Numbers of the extents that are variables, and the array of every buffer."""


def _truncated(a: Any, b: Any) -> Any:
    return np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))


OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    tirx.Add: np.add,
    tirx.Sub: np.subtract,
    tirx.Mul: np.multiply,
    tirx.FloorDiv: np.floor_divide,
    tirx.FloorMod: np.mod,
    tirx.Div: _truncated,
    tirx.Mod: np.fmod,
    tirx.Min: np.minimum,
    tirx.Max: np.maximum,
    tirx.EQ: np.equal,
    tirx.NE: np.not_equal,
    tirx.LT: np.less,
    tirx.LE: np.less_equal,
    tirx.GT: np.greater,
    tirx.GE: np.greater_equal,
    tirx.And: np.logical_and,
    tirx.Or: np.logical_or,
}


def evaluate(expr: Any, env: Mapping[Any, Any]) -> Any:
    """An integer expression over NumPy values; KeyError for a variable without one."""
    if isinstance(expr, int | np.ndarray | np.integer):
        return expr
    if isinstance(expr, tirx.IntImm):
        return int(expr.value)
    if isinstance(expr, ir.TensorLoad):
        return _load(expr, env)
    if isinstance(expr, ir.Var):
        return env[expr]
    if isinstance(expr, tirx.Cast):
        return evaluate(expr.value, env)
    if isinstance(expr, tirx.Not):
        return np.logical_not(evaluate(expr.a, env))
    if isinstance(expr, tirx.Select):
        return np.where(*(evaluate(e, env) for e in (expr.condition, expr.true_value, expr.false_value)))
    if operation := OPERATIONS.get(type(expr)):
        return operation(evaluate(expr.a, env), evaluate(expr.b, env))
    raise FormatError(
        f"{text(expr)} ({type(expr).__name__}) in a format",
        "coords and valid are integer arithmetic, comparisons and reads of arrays",
        "write it with these",
    )


def _load(load: ir.TensorLoad, env: Mapping[Any, Any]) -> np.ndarray:
    array, at = env[load.source], [evaluate(i, env) for i in load.indices]
    for index, length in zip(at, array.shape, strict=True):
        if np.any((index < 0) | (index >= length)):
            raise FormatError(
                f"the format reads {load.source.name} at {int(np.max(index))}, it has {length} entries",
                "the kernel would read outside of it",
                "give an entry for every position, or make the format's expressions stay inside",
            )
    return array[tuple(at)].astype(np.int64)


def bind(fmt: Format, arrays: Sequence[np.ndarray], values: np.ndarray, known: Mapping[Any, int] | None = None) -> Env:
    """The environment of arrays: their lengths decide the extents that are variables. FormatError where lengths disagree."""
    if len(arrays) != len(fmt.aux):
        raise FormatError(
            f"{fmt.name} takes {len(fmt.aux)} arrays, here are {len(arrays)}",
            f"they are {', '.join(str(b.name) for b in fmt.aux) or 'none'}",
            "give them in this order",
        )
    env: Env = dict(known or {})
    lengths: list[tuple[str, Any, int]] = []
    for buffer, array in zip(fmt.aux, arrays, strict=True):
        check_vector(buffer.name, array)
        lengths.append((f"{buffer.name} has {len(array)} entries", buffer.shape[0], len(array)))
        env[buffer] = array
    storage = fmt.storage()
    if not isinstance(values, np.ndarray) or values.ndim < len(storage):
        raise FormatError(
            f"the values of {fmt.name} are {describe(values)}",
            f"the format stores [{', '.join(map(text, storage))}]",
            "convert the operand again",
        )
    for dim, (extent, length) in enumerate(zip(storage, values.shape, strict=False)):
        lengths.append((f"the values of {fmt.name} are {length} long in dimension {dim}", extent, length))
    _solve(lengths, env)
    for what, expr, length in lengths:
        if (wanted := int(decided(fmt, expr, env))) != length:
            raise FormatError(f"{what}, {wanted} are needed", f"the format has {text(expr)} of them", "convert again")
    return env


def _solve(lengths: Sequence[tuple[str, Any, int]], env: Env) -> None:
    """Bind variables that are a length, or a length and a constant."""
    for _, expr, length in lengths:
        if isinstance(expr, tirx.Add | tirx.Sub) and isinstance(expr.b, tirx.IntImm):
            length += int(expr.b.value) * (-1 if isinstance(expr, tirx.Add) else 1)
            expr = expr.a
        if isinstance(expr, ir.Var):
            env.setdefault(expr, length)


def decided(fmt: Format, expr: Any, env: Env) -> Any:
    """An extent of a format; FormatError where it has a variable that the arrays do not decide."""
    try:
        return evaluate(expr, env)
    except KeyError as error:
        raise FormatError(
            f"an extent of {fmt.name}, {text(expr)}, is not decided by its arrays: {error} is free",
            fix="make the format with the matrix's own numbers of rows and columns",
        ) from None


def walk(fmt: Format, env: Env) -> list[Point]:
    """The points of all stored entries on each level, as int64 vectors, in the order of the walk."""
    parent, x, pos = (tirx.Var(name, INDEX) for name in ("parent", "x", "pos"))
    points: list[Point] = []
    at = np.zeros(1, np.int64)
    for level in fmt.levels:
        counts = np.broadcast_to(decided(fmt, level.extent(parent), {**env, parent: at}), at.shape)
        above = np.repeat(np.arange(len(at)), counts)
        rel = np.arange(len(above)) - np.repeat(np.cumsum(counts) - counts, counts)
        place = decided(fmt, level.position(parent, x), {**env, parent: at[above], x: rel})
        coord = decided(fmt, level.coordinate(pos, x), {**env, pos: place, x: rel})
        points = [Point(p.rel[above], p.pos[above], p.coord[above]) for p in points]
        points.append(Point(rel, place, coord))
        at = place
    return points


def stored(fmt: Format, env: Env) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...], np.ndarray | None]:
    """Logical coordinates of all stored entries, the indices of their values, and which of them count (None: all)."""
    points, at = walk(fmt, env), symbols(fmt.levels)
    here: Env = dict(env)
    for symbol, point in zip(at, points, strict=True):
        here |= {symbol.rel: point.rel, symbol.pos: point.pos, symbol.coord: point.coord}
    size = points[-1].rel.shape
    found = tuple(np.broadcast_to(evaluate(c, here), size) for c in fmt.coords(*at))
    places = tuple(np.broadcast_to(i, size) for i in fmt.position(points))
    counts = None if fmt.valid is None else np.broadcast_to(evaluate(fmt.valid(*at), here), size)
    return found, places, counts


def entries(fmt: Format, env: Env) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Logical coordinates of all entries that count, and the indices of their values."""
    found, places, counts = stored(fmt, env)
    if counts is None:
        return found, places
    return tuple(c[counts] for c in found), tuple(i[counts] for i in places)


def dense_of(
    fmt: Format,
    arrays: Sequence[np.ndarray],
    values: np.ndarray,
    shape: Sequence[int],
    known: Mapping[Any, int] | None = None,
) -> np.ndarray:
    """The tensor that is stored, 0 where nothing is; entries that stand twice add up."""
    found, places = entries(fmt, bind(fmt, arrays, values, known))
    dense = np.zeros(shape, values.dtype)
    np.add.at(dense, found, values[places])
    return dense
