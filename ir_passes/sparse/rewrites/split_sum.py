"""Split a sum: an iteration whose value adds sparse operands becomes one iteration for each of them.

    C[i, k] sum= (A[i, j] + B[i, j]) * X[j, k]  -->  C[i, k] sum= A[i, j] * X[j, k] over A,  then += B[i, j] * X[j, k] over B

A walk over one operand sees the intersection with the others, and a sum wants the union: every summand walks its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial, reduce
from typing import Any

from ....schedules.compat import ir
from ..errors import SparseError
from ..expr import free_vars, loads, same, terms, vanishes
from ..iteration import Iteration, Program
from ..lowering.access import on_walk
from ..tensor import Tensor
from ..text import text
from .steps import find, order_over, replace_step


def split_sum(program: Program, name: str) -> Program:
    """The program with one iteration `<name>_<tensor>` for each sparse operand that is a factor of summands.

    The value is meant over all coordinates, and is 0 where nothing is stored; the iteration sums, or assigns every element of a
    dense output once. SparseError where a summand has no sparse factor that covers the coordinates, or there is one operand only.
    """
    it = find(program, name)
    tensors = {t.logical: t for t in program.tensors}
    _check(it, tensors)
    operands: list[tuple[ir.TensorLoad, list[Any]]] = []
    for term in terms(it.value):
        operand = _operand(it, term, tensors)
        for load, summands in operands:
            if same(load, operand):
                summands.append(term)
                break
        else:
            operands.append((operand, [term]))
    if len(operands) < 2:
        raise SparseError(
            f"{name} has one sparse operand, {tensors[operands[0][0].source].name}",
            "there is nothing to split",
            "walk its format",
        )
    iterations: list[Iteration] = []
    for load, summands in operands:
        made = _over(it, load, tensors[load.source], reduce(lambda a, b: a + b, summands))
        iterations.append(dataclasses.replace(made, accumulate=it.accumulate or bool(iterations)))
    names = [made.name for made in iterations]
    iterations = [
        dataclasses.replace(made, name=f"{made.name}{n}") if names.count(made.name) > 1 else made
        for n, made in enumerate(iterations)
    ]
    return replace_step(program, it, iterations)


def _check(it: Iteration, tensors: Mapping[Any, Tensor]) -> None:
    if it.combine not in (None, "sum"):
        raise SparseError(
            f"{it.name} takes the {it.combine} of a sum",
            f"the {it.combine} of a sum is not a {it.combine} of its summands",
            "give the operands miss values, or add them up in an iteration of their own first",
        )
    out = tensors[it.out.source]
    if out.fmt is not None:
        raise SparseError(
            f"{it.name} writes {out.name}, stored in {out.fmt.name}",
            "summands have other entries, and new ones cannot be made while walking",
            "write a dense tensor, or walk the output's format and give the operands miss values",
        )
    variables = {*it.coords, *it.free}
    if it.combine is None and (it.accumulate or variables - set().union(*(free_vars(i) for i in it.out.indices))):
        raise SparseError(
            f"{it.name} assigns {text(it.out)} several times",
            "the last assignment would count, and summands have no last one",
            'index the output with all coordinates, or combine with "sum"',
        )


def _operand(it: Iteration, term: Any, tensors: Mapping[Any, Tensor]) -> ir.TensorLoad:
    """The sparse factor of a summand that its iteration walks: the one that is walked now, if it may be."""
    found: list[ir.TensorLoad] = []
    for load in loads(term):
        tensor = tensors.get(load.source)
        if tensor is None or tensor.fmt is None:
            continue
        at = list(load.indices[: tensor.fmt.ndim])
        names = [v for v in at if isinstance(v, ir.Var) and v in {*it.coords, *it.free}]
        covers = len(set(names)) == len(at) and set(it.coords) <= set(names)
        if covers and vanishes(term, partial(same, load)):
            found.append(load)
    for load in found:
        if on_walk(it, tensors[load.source], load.indices):
            return load
    if not found:
        raise SparseError(
            f"{it.name} has the summand {text(term)}, which no sparse operand makes 0 where it stores nothing",
            "such a summand counts at all coordinates, and there is no walk over them",
            "make a tensor in a format a factor of it that is indexed with all of the walk's coordinates",
        )
    return found[0]


def _over(it: Iteration, load: ir.TensorLoad, tensor: Tensor, value: Any) -> Iteration:
    """The iteration over one operand."""
    assert tensor.fmt is not None
    name, combine = f"{it.name}_{tensor.name}", it.combine or "sum"
    if on_walk(it, tensor, load.indices):
        return dataclasses.replace(it, name=name, value=value, combine=combine)
    at = tuple(load.indices[: tensor.fmt.ndim])
    gone = [level.name for level in it.walk.levels] if it.walk else []
    gone += [str(v.name) for v in it.free if v in at]
    return dataclasses.replace(
        it,
        name=name,
        walk=tensor.fmt,
        coords=at,
        free={v: extent for v, extent in it.free.items() if v not in at},
        value=value,
        combine=combine,
        order=order_over(it, tensor.fmt, gone),
        masked=True,
    )
