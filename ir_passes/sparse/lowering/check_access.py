"""What an iteration may read and write: outputs that its walk determines, and operands off the walk that it cannot miss.

An iteration visits the entries of its walk, and nothing else. Together with another sparse operand that is the intersection of
both, which a product wants; a sum wants the union, which one walk cannot give.
"""

from __future__ import annotations

from typing import Any

from ....schedules.compat import ir
from ..errors import SparseError
from ..expr import free_vars, loads, same, vanishes
from ..iteration import Iteration
from ..tensor import Tensor
from ..text import text
from .access import on_walk
from .inverse import inverse


def check_access(it: Iteration, tensors: dict[Any, Tensor]) -> None:
    """SparseError for the first access of an iteration that cannot be lowered, or would not mean what it says."""
    _determined(it)
    out = tensors[it.out.source]
    if out.fmt is not None and not on_walk(it, out, it.out.indices):
        raise SparseError(
            f"{it.name} writes {out.name}, stored in {out.fmt.name}, where its walk does not stand",
            "new entries cannot be made while walking",
            "walk the output's format at its own coordinates, and read the other operands off the walk",
        )
    again = sorted(a.name for a in it.axes() if not isinstance(a, str) and it.is_reduction(a))
    if it.combine is None and again:
        raise SparseError(
            f"{it.name} assigns {text(it.out)} anew for every point of {again[0]}",
            "the last one would count, and schedules change which one that is",
            'index the output with all coordinates, or combine (combine="sum")',
        )
    if it.combine is None and out.fmt is None and it.walk and it.walk.valid and it.depth is None:
        raise SparseError(
            f"{it.name} assigns {out.name} over padding of {it.walk.name}",
            "padding stands at coordinates of entries that count, and its 0 would replace their values",
            'combine with "sum", which adds nothing there, or write a tensor in the format',
        )
    _partial(it, out)
    _in_place(it)
    _walked(it, tensors)
    for load in loads(it.value):
        tensor = tensors.get(load.source)
        if tensor is None or tensor.fmt is None or on_walk(it, tensor, load.indices):
            continue
        if tensor.row_local:
            raise SparseError(
                f"{it.name} reads the row-local {tensor.name} off its walk",
                "a row-local tensor holds the entries of one row, in the order of the walk",
                "read it at the walk's own coordinates, or give it memory of its own (row_local=False)",
            )
        assert tensor.fmt is not None
        inverse(tensor.fmt)
        if tensor.miss is None:
            _intersection(it, tensor, tensors)


def _determined(it: Iteration) -> None:
    known: set[Any] = {*it.coords, *it.free}
    used: set[Any] = set().union(*(free_vars(i) for i in it.out.indices))
    if loads_in_index := [ld for i in it.out.indices for ld in loads(i)]:
        raise SparseError(
            f"{it.name} writes {text(it.out)}, at a coordinate that it reads from {loads_in_index[0].source.name}",
            "where an iteration writes is decided by its walk, or nothing tells which elements it reaches",
            "make the array a level of the format (a sparse level's coordinates are data)",
        )
    if unknown := sorted(str(v.name) for v in used - known if isinstance(v, ir.Var)):
        raise SparseError(
            f"{it.name} writes {text(it.out)}, and nothing determines {unknown[0]}",
            "its walk and free variables do not name it",
            "index the output with coordinates of the walk and free variables only",
        )


def _in_place(it: Iteration) -> None:
    """An iteration may read what it writes where it replaces each element by a function of the same element only."""
    for load in loads(it.value):
        if load.source.same_as(it.out.source) and (it.combine or not same(load, it.out)):
            raise SparseError(
                f"{it.name} reads {text(load)}, and writes {text(it.out)}",
                "what it reads there depends on how far it has come",
                "write another tensor"
                + (", or let it accumulate what is new only (accumulate=True)" if it.combine == "sum" else ""),
            )


def _partial(it: Iteration, out: Tensor) -> None:
    """The partial last tile of a split level stands at entries that other tiles have, where it may add nothing only."""
    at = it.walk.partial if it.walk else None
    if at is None or (it.depth is not None and it.depth <= at):
        return
    assert it.walk is not None
    if it.combine is None or it.depth is not None or out.fmt is it.walk:
        raise SparseError(
            f"{it.name} writes {out.name} in tiles of {it.walk.levels[at].name}, the last of which is partial",
            "its padding stands at an entry that counts, and what is written there would replace the entry's value or count again",
            "split a length that is a multiple of the tiles, or combine all entries (no `depth`) into a dense tensor",
        )


def _walked(it: Iteration, tensors: dict[Any, Tensor]) -> None:
    """A statement of some levels uses the coordinates of those only."""
    walked = set(it.axes())
    if it.walk is None or all(level in walked for level in it.walk.levels):
        return
    points_of = it.walk.levels
    for n, used in enumerate(it.walk.used_by()):
        below = [level.name for level in used if level not in walked]
        everywhere = (it.value, *it.out.indices)
        if below and any(it.coords[n] in free_vars(e) for e in everywhere):
            raise SparseError(
                f"{it.name} uses the coordinate {it.coords[n].name}, which needs level {below[0]}; it walks "
                + ", ".join(level.name for level in points_of if level in walked),
                "on a level that is not walked there is no coordinate",
                "walk the level, or index with the coordinates of the levels above",
            )
    if it.walk in [tensors[ld.source].fmt for e in (it.value, it.out) for ld in loads(e) if ld.source in tensors]:
        raise SparseError(
            f"{it.name} accesses an entry of {it.walk.name}, but does not walk all of its levels",
            "an entry is known when all levels are",
            "leave out `depth`",
        )


def _intersection(it: Iteration, tensor: Tensor, tensors: dict[Any, Tensor]) -> None:
    """Reading `tensor` off the walk is right if nothing is lost where it has entries and the walk has none."""
    stated = f'state what is read where nothing is stored: Tensor("{tensor.name}", ..., miss=0.0)'
    if it.combine not in (None, "sum"):
        raise SparseError(
            f"{it.name} takes the {it.combine} over {tensor.name}, which is read off the walk",
            "a missing entry has no value by itself: 0 may be the largest",
            stated,
        )

    def zero(load: ir.TensorLoad) -> bool:
        held = tensors.get(load.source)
        return held is not None and held.fmt is not None and on_walk(it, held, load.indices)

    if not vanishes(it.value, zero):
        walk = it.walk.name if it.walk else "dense axes"
        raise SparseError(
            f"{it.name} reads {tensor.name} off its walk over {walk}, and its value is not a product with what it walks",
            f"entries of {tensor.name} where the walk has none would be missed, as in a sum of two sparse operands",
            f"decompose the sum (rewrites.split_sum: an iteration for each operand), or {stated}",
        )
