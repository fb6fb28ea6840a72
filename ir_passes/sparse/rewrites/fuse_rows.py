"""Fuse rows: steps over one format run one after another inside the block of a row, with what is between them in registers.

    sddmm; row max; exp; row sum; spmm  -->  fused over I: the five of them, scores and sums row-local

A row is one point of the leading levels. Each step then sees only what earlier steps left for the same row, so a step that needs
other rows' results cannot be fused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ..axes import index
from ..errors import SparseError
from ..expr import free_vars, same, substitute
from ..format import Format
from ..iteration import Fused, Iteration, Program
from ..lowering.access import on_walk
from ..lowering.coverage import repeated
from ..tensor import Tensor
from ..text import text
from .steps import accesses, find


def fuse_rows(
    program: Program, names: Sequence[str], levels: int = 1, local: Mapping[str, bool | int] | None = None
) -> Program:
    """The program with the named consecutive iterations fused over the first `levels` levels of their common format.

    `local` names the intermediates that live inside a row and leave the parameters: True for dense ones, which lose the row's
    dimensions, and for tensors in the format the most entries that a row may have (the caller sees to it that none has more).
    SparseError where fusing would change a result.
    """
    group = [find(program, name) for name in names]
    walk = _common(program, group, levels)
    rows = _rows(walk, levels)
    tensors = {t.logical: t for t in program.tensors}
    for source in {it.out.source for it in group}:
        _own_rows(tensors[source], group, rows)
    moved = {}
    for name, bound in (local or {}).items():
        tensor = next((t for t in program.tensors if t.name == name), None)
        if tensor is None:
            raise SparseError(f"program {program.name} has no tensor {name}", fix="name tensors that the group writes")
        _may_be_local(program, group, tensor, bound)
        moved[tensor] = _local(tensor, group, rows, bound)
    fused = Fused(levels, tuple(_move(it, moved, rows) for it in group))
    steps = [fused if s is group[0] else s for s in program.steps if s is group[0] or s not in group]
    return dataclasses.replace(
        program,
        steps=tuple(steps),
        tensors=tuple(moved.get(t, t) for t in program.tensors),
        params=tuple(p for p in program.params if not (isinstance(p, Tensor) and p in moved)),
    )


def _common(program: Program, group: Sequence[Iteration], levels: int) -> Format:
    """The format of a group that may share a block; SparseError for others."""
    names = ", ".join(it.name for it in group)
    at = [program.steps.index(it) for it in group]
    if not at or at != list(range(at[0], at[0] + len(at))):
        raise SparseError(
            f"{names or 'no iterations'} are not consecutive steps of {program.name}",
            "what stands between them would come before or after all of them",
            "name all steps from the first to the last, in order",
        )
    walk = group[0].walk
    if walk is None or any(it.walk is not walk for it in group):
        raise SparseError(
            f"{names} walk different formats",
            "they share the block of the leading levels",
            "fuse iterations over one format",
        )
    if not 1 <= levels <= len(walk.levels):
        raise SparseError(
            f"{names} are to share {levels} levels of {len(walk.levels)}",
            fix="share at least the first level, at most all",
        )
    if short := [it for it in group if it.depth is not None and it.depth < levels]:
        raise SparseError(
            f"{short[0].name} walks {short[0].depth} levels, {levels} are to be shared",
            "on a level that is not walked there is no row",
            "share the levels that all of them walk",
        )
    return walk


def _rows(walk: Format, levels: int) -> set[int]:
    """The logical dimensions that a row is, each row one point of the shared levels."""
    shared = walk.levels[:levels]
    dims = {n for n, used in enumerate(walk.used_by()) if used and set(used) <= set(shared)}
    seen = {level for n in dims for level in walk.used_by()[n]}
    if again := repeated(walk, set(seen)) & set(shared):
        raise SparseError(
            f"the format {walk.name} may name a row again on level {', '.join(sorted(level.name for level in again))}",
            "the entries of a row would not be in one block",
            "use a format that keeps the entries of a row together (csr, dcsr, ell)",
        )
    return dims


def _own_rows(tensor: Tensor, group: Sequence[Iteration], rows: set[int]) -> None:
    """What one iteration of a group writes, the others touch at their own row only."""
    users = [it for it in group if any(load.source.same_as(tensor.logical) for load in accesses(it))]
    if len(users) == 1 and all(not load.source.same_as(tensor.logical) for load in accesses(users[0])[1:]):
        return
    for it in users:
        for load in accesses(it):
            if (
                load.source.same_as(tensor.logical)
                and not on_walk(it, tensor, load.indices)
                and not _row_dims(it, load.indices, rows)
            ):
                raise SparseError(
                    f"{it.name} accesses {text(load)}, which may be of another row, and {tensor.name} is written in the group",
                    "fused, a row is finished before the next begins, so it would see results too early or too late",
                    "index it with the coordinates of the row, or fuse only the steps before",
                )


def _row_dims(it: Iteration, indices: Sequence[Any], rows: set[int]) -> list[int]:
    """The dimensions of an access that are the row's coordinates, if all of these are among them; else none."""
    coordinates = [it.coords[n] for n in sorted(rows)]
    dims = [n for n, i in enumerate(indices) if any(same(i, c) for c in coordinates)]
    complete = len(dims) == len(coordinates) == len({indices[n] for n in dims})
    others = {v for n, i in enumerate(indices) if n not in dims for v in free_vars(i)}
    return dims if complete and not others & set(coordinates) else []


def _may_be_local(program: Program, group: Sequence[Iteration], tensor: Tensor, bound: bool | int) -> None:
    names = {it.name for it in group}
    outside = [
        it.name
        for it in program.iterations()
        if it.name not in names and any(load.source.same_as(tensor.logical) for load in accesses(it))
    ]
    inside = [it for it in group if any(load.source.same_as(tensor.logical) for load in accesses(it))]
    first = inside[0] if inside else None
    reads_first = first is None or not first.out.source.same_as(tensor.logical) or first.accumulate
    if outside:
        raise SparseError(
            f"{tensor.name} cannot be row-local: {outside[0]}, outside of the group, uses it",
            "a row-local tensor is gone when its row is done",
            f"leave {tensor.name} out of `local`, so that it stays in memory, or fuse {outside[0]}, too",
        )
    if reads_first:
        raise SparseError(
            f"{tensor.name} cannot be row-local: the group does not begin it",
            "it would hold nothing",
            "make tensors local that an iteration of the group begins (no accumulate)",
        )
    if tensor.fmt is not None and (isinstance(bound, bool) or bound < 1):
        raise SparseError(
            f"{tensor.name} in {tensor.fmt.name} is to be row-local, with a bound of {bound} on the entries of a row",
            "the entries of one row are held in an array",
            "give the most entries that a row may have",
        )


def _local(tensor: Tensor, group: Sequence[Iteration], rows: set[int], bound: bool | int) -> Tensor:
    """The tensor without the row's dimensions, or in its format with a bound on a row's entries."""
    if tensor.fmt is not None:
        if any(
            not on_walk(it, tensor, ld.indices)
            for it in group
            for ld in accesses(it)
            if ld.source.same_as(tensor.logical)
        ):
            raise SparseError(
                f"{tensor.name} cannot be row-local: it is read off the walk",
                "a row-local tensor holds the entries of one row, in the order of the walk",
                "leave it out of `local`, so that it stays in memory",
            )
        return dataclasses.replace(tensor, row_local=bound)
    dims = {
        tuple(_row_dims(it, ld.indices, rows))
        for it in group
        for ld in accesses(it)
        if ld.source.same_as(tensor.logical)
    }
    if len(dims) != 1 or not (at := dims.pop()):
        raise SparseError(
            f"{tensor.name} cannot be row-local: it is not indexed with the row's coordinates in one place",
            "a row-local tensor is what one row has of it",
            "index it with the coordinates of the shared levels",
        )
    shape = tuple(n for dim, n in enumerate(tensor.shape) if dim not in at)
    return dataclasses.replace(tensor, shape=shape or (1,), row_local=True)


def _move(it: Iteration, moved: Mapping[Tensor, Tensor], rows: set[int]) -> Iteration:
    """The iteration over row-local tensors."""

    def load(old: Tensor, new: Tensor) -> Any:
        def make(at: list[Any], before: Sequence[Any]) -> Any:
            if old.fmt is None:
                dims = _row_dims(it, before, rows)
                at = [i for n, i in enumerate(at) if n not in dims] or [index(0)]
            return new.logical[tuple(at)]

        return make

    sources = {old.logical: load(old, new) for old, new in moved.items()}
    return dataclasses.replace(it, out=substitute(it.out, None, sources), value=substitute(it.value, None, sources))
