"""Lowering, step 1: which elements of its output an iteration reaches, and along which axes it comes back to one.

An iteration may initialise an output element where it begins it only if every element has its own run of the spatial axes and
none is left out. Where that cannot be shown, the output is filled first and the iteration accumulates (`fills`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias

from ....schedules.compat import Analyzer, ir, tirx
from ..axes import Axis, SparseFixed, Value, index
from ..expr import free_vars, same, substitute
from ..format import Format, symbols
from ..iteration import Iteration
from ..tensor import Tensor

LoopAxis: TypeAlias = Axis | tirx.Var


@dataclasses.dataclass(frozen=True)
class Reach:
    """`covers`: every output element is reached, by one run. `returning`: axes along which an element may come up again."""

    covers: bool
    returning: frozenset[LoopAxis]


@dataclasses.dataclass(frozen=True)
class Digit:
    """An axis as part of an index: how many values it takes, the weight of a step, and whether it takes all of them."""

    axis: LoopAxis
    count: Value
    weight: Value
    whole: bool


def reach(it: Iteration, out: Tensor) -> Reach:
    """How an iteration reaches its output."""
    coordinates: dict[Any, Value] = {}
    above: dict[Any, Sequence[Axis]] = {}
    digit_of: dict[Any, Digit] = {v: Digit(v, index(n), index(1), True) for v, n in it.free.items()}
    if it.walk is not None:
        at, size = symbols(it.walk.levels), index(1)
        above = {point.pos: it.walk.levels[:n] for n, point in enumerate(at)}
        for level, point in zip(it.walk.levels, at, strict=True):
            size = level.size(size)
            coordinate = Digit(level, index(level.length), index(1), not (level.sparse or level.variable))
            digit_of |= {point.rel: coordinate, point.coord: coordinate, point.pos: Digit(level, size, index(1), True)}
        coordinates = dict(zip(it.coords, it.walk.coords(*at), strict=True))
    stored = it.walk.ndim if it.walk is not None and out.fmt is it.walk else 0  # these stand where the walk does
    covers = True
    seen, returning = set[LoopAxis](), set[LoopAxis]()
    positioned = set[LoopAxis]()  # levels that a position below them tells: they are no coordinate beside it
    for expr, length in list(zip(it.out.indices, out.shape, strict=True))[stored:]:
        expr = substitute(index(expr), coordinates)
        used = {digit_of[v].axis for v in free_vars(expr) if v in digit_of}
        positioned |= set().union(*(above.get(v, ()) for v in free_vars(expr)))
        digits = _digits(Analyzer().simplify(expr), digit_of)
        if digits is None:
            returning |= used
        covers = covers and digits is not None and not used & seen and _spans(digits, length)
        seen |= used
    if it.walk is not None and not stored:
        returning |= repeated(it.walk, seen)
    return Reach(covers and not positioned & seen, frozenset(returning))


def _digits(expr: Value, digit_of: dict[Any, Digit]) -> list[Digit] | None:
    """An index as digits of a mixed radix, highest first; None where it is anything else."""
    if isinstance(expr, ir.Var):
        return [digit_of[expr]] if expr in digit_of else None
    if not isinstance(expr, tirx.Add) or not isinstance(expr.a, tirx.Mul):
        return None
    high, low = _digits(expr.a.a, digit_of), _digits(expr.b, digit_of)
    if high is None or low is None or not same(Analyzer().simplify(low[0].count * low[0].weight), expr.a.b):
        return None
    return [*(dataclasses.replace(d, weight=Analyzer().simplify(d.weight * expr.a.b)) for d in high), *low]


def _spans(digits: list[Digit], length: Value) -> bool:
    """Whether the digits count from 0 to `length`; a variable length that is cut into parts counts as a multiple of them."""
    count, weight, simplify = digits[0].count, digits[0].weight, Analyzer().simplify
    spans = same(simplify(count * weight), simplify(index(length)))
    cut = not isinstance(length, int | tirx.IntImm) and same(simplify(count), simplify(index(length) // weight))
    return (spans or cut) and all(d.whole for d in digits)


def repeated(fmt: Format, seen: set[LoopAxis]) -> set[LoopAxis]:
    """Levels along which a coordinate that is data may come up again, for the levels that an output depends on."""
    found: set[LoopAxis] = set()
    for n, level in enumerate(fmt.levels):
        if not level.sparse or level not in seen:
            continue
        # Levels of one entry each, as in coo, stand below a level that names its coordinate once for every entry.
        below = fmt.levels[n + 1 : n + 2]
        single = any(isinstance(child, SparseFixed) and same(index(child.entries), index(1)) for child in below)
        if single or not level.ordered:
            found.add(level)
        found |= {up for up in fmt.levels[:n] if up not in seen and up.name not in fmt.partition}
    return found
