"""Decompose: one iteration over a format becomes one over each member format.

    spmm over csr  -->  spmm_fill, spmm over ell of 1, spmm over ell of 2, spmm over the tail

The members together are the operand: their entries partition those of the format, or their values add up to it. The output is
begun once. A member that covers it does so by itself; otherwise a fill goes in front, disjoint members begin the rows that they
own, and all others accumulate. An empty member walks nothing and leaves the output alone.

Source: composable formats, Ye et al., SparseTIR (2023).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ....schedules.compat import ir, tirx
from ..errors import SparseError
from ..expr import free_vars, loads, substitute
from ..format import Format
from ..iteration import Iteration, Program
from ..lowering.access import on_walk
from ..lowering.fills import can_begin, fill, needs_fill
from ..tensor import Tensor
from ..text import text
from .steps import accesses, find, order_over, replace_step, users


def decompose(program: Program, name: str, members: Sequence[Format], *, partition: bool = False) -> Program:
    """The program with one iteration `<name>_<member>` for each member, over tensors `<tensor>_<member>` of its own.

    Members add up to the operand by default, so the value must be linear in what is stored and be summed. `partition` says
    that every entry stands in exactly one member: then any value and any combination will do. In the parameters, each member's
    arrays and values stand where the operand's values stood. SparseError where the result would be another one.
    """
    it = find(program, name)
    _check(it, members)
    tensors = {t.logical: t for t in program.tensors}
    stored = list(dict.fromkeys(tensors[ld.source] for ld in accesses(it) if _walked(it, tensors, ld)))
    out = tensors[it.out.source]
    if not partition:
        _adds_up(it, out in stored, lambda load: _walked(it, tensors, load))
    if out in stored and users(program, out) != [it]:
        raise SparseError(
            f"{name} writes {out.name} in {out.fmt.name if out.fmt else ''}, which other iterations use",
            "decomposed, the values are in tensors of the members",
            "decompose where the output is dense, or leave this iteration whole",
        )
    parts = {t: [dataclasses.replace(t, name=f"{t.name}_{m.name}", fmt=m) for m in members] for t in stored}
    iterations = [_over(it, m, {t: parts[t][n] for t in stored}) for n, m in enumerate(members)]
    everything = tensors | {part.logical: part for made in parts.values() for part in made}
    if it.combine and not it.accumulate and out not in stored:
        iterations = _begin_once(it, iterations, out, everything)
    gone = {t for t in stored if users(program, t) == [it]}
    kept = [made for t in program.tensors for made in ([] if t in gone else [t]) + parts.get(t, [])]
    left = replace_step(program, it, iterations, tensors=tuple(kept))
    return dataclasses.replace(left, params=_params(program, left, members, parts, gone))


def _check(it: Iteration, members: Sequence[Format]) -> None:
    if it.walk is None or it.depth is not None:
        raise SparseError(
            f"{it.name} walks {'no format' if it.walk is None else 'some levels only'}",
            "members replace the format that an iteration walks",
            "decompose an iteration over all levels of a format",
        )
    if not members or len({m.name for m in members}) != len(members):
        raise SparseError(
            f"{it.name} is decomposed into {len(members)} members with {len({m.name for m in members})} names",
            "each gets an iteration and tensors named after it",
            "give at least one member, and each a name of its own",
        )
    for member in members:
        if member.ndim != it.walk.ndim:
            raise SparseError(
                f"member {member.name} has {member.ndim} coordinates, {it.walk.name} has {it.walk.ndim}",
                "a member stores entries of the same tensor",
                "use members of the same coordinates",
            )


def _walked(it: Iteration, tensors: Mapping[Any, Tensor], load: ir.TensorLoad) -> bool:
    tensor = tensors.get(load.source)
    return tensor is not None and on_walk(it, tensor, load.indices)


def _adds_up(it: Iteration, inside: bool, walked: Callable[[ir.TensorLoad], bool]) -> None:
    """SparseError unless the iteration over the sum of members is the sum of iterations over the members."""
    what = ""
    if it.combine not in (None, "sum"):
        what = f"takes the {it.combine}"
    elif it.combine is None and not inside:
        what = "assigns"
    elif not linear(it.value, walked):
        what = f"computes {text(it.value)}, which is not linear in what is stored"
    if what:
        raise SparseError(
            f"{it.name} cannot be decomposed into members that add up: it {what}",
            "a coordinate may stand in several members, and only sums of linear values put them together",
            "use members of which each entry is in exactly one, and say so (partition=True)",
        )


def linear(expr: Any, walked: Callable[[ir.TensorLoad], bool]) -> bool:
    """Whether an expression is linear in the loads that `walked` names: f(x + y) = f(x) + f(y)."""

    def constant(e: Any) -> bool:
        return not any(walked(load) for load in loads(e))

    def go(e: Any) -> bool:
        if isinstance(e, ir.TensorLoad):
            return walked(e)
        if isinstance(e, tirx.Mul):
            return (go(e.a) and constant(e.b)) or (constant(e.a) and go(e.b))
        if isinstance(e, tirx.Add | tirx.Sub):
            return go(e.a) and go(e.b)
        if isinstance(e, tirx.Div):
            return go(e.a) and constant(e.b)
        if isinstance(e, tirx.Cast):
            return go(e.value)
        return isinstance(e, tirx.Select) and constant(e.condition) and go(e.true_value) and go(e.false_value)

    return go(expr)


def _over(it: Iteration, member: Format, parts: Mapping[Tensor, Tensor]) -> Iteration:
    """The iteration over one member. Its padding is masked, whatever the padding of the whole format was."""
    assert it.walk is not None

    def load(whole: Tensor) -> Callable[[list[Any], Sequence[Any]], Any]:
        def make(new: list[Any], old: Sequence[Any]) -> Any:
            source = parts[whole].logical if on_walk(it, whole, old) else whole.logical
            return source[tuple(new)]

        return make

    sources = {t.logical: load(t) for t in parts}
    out, value = substitute(it.out, None, sources), substitute(it.value, None, sources)
    levels = [level.name for level in it.walk.levels]
    order = order_over(it, member, levels)
    return dataclasses.replace(
        it, name=f"{it.name}_{member.name}", walk=member, out=out, value=value, order=order, masked=True
    )


def _begin_once(
    whole: Iteration, its: Sequence[Iteration], out: Tensor, tensors: Mapping[Any, Tensor]
) -> list[Iteration]:
    """The iterations such that every element of the output begins at the identity exactly once."""
    covering = next((it for it in its if not needs_fill(it, tensors)), None)
    if covering is not None:
        return [covering, *(dataclasses.replace(it, accumulate=True) for it in its if it is not covering)]

    def owns(it: Iteration) -> bool:
        assert it.walk is not None
        # Disjoint are the rows, which the first level leads to: an output without them is everyone's.
        return it.walk.disjoint and not it.is_reduction(it.walk.levels[0]) and can_begin(it, tensors)

    return [
        fill(whole, out),
        *(dataclasses.replace(it, begins=True) if owns(it) else dataclasses.replace(it, accumulate=True) for it in its),
    ]


def _params(
    before: Program,
    after: Program,
    members: Sequence[Format],
    parts: Mapping[Tensor, Sequence[Tensor]],
    gone: set[Tensor],
) -> tuple[Any, ...]:
    """Parameters: members' tensors in place of the whole ones, each member's arrays in front of its first tensor."""
    needed = {b for fmt in after.formats() for b in fmt.aux}
    needed |= {v for it in after.iterations() for e in (it.value, *it.out.indices) for v in free_vars(e)}
    walks = {b for fmt in before.formats() for b in fmt.aux}
    found: list[Any] = []
    arrays = {member: list(member.aux) for member in members}
    for param in before.params:
        if not isinstance(param, Tensor):
            found += [param] if param in needed or param not in walks else []
            continue
        found += [] if param in gone else [param]
        for member, part in zip(members, parts.get(param, ()), strict=False):
            found += [*arrays.pop(member, ()), part]
    return (*(b for rest in arrays.values() for b in rest), *found)
