"""What a program must be before it is lowered; each violation is a SparseError that says what to write instead."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ....schedules.compat import tirx
from ..axes import Axis, index
from ..errors import SparseError
from ..expr import free_vars, loads, same
from ..format import Format, symbols
from ..iteration import BLOCK, Fused, Iteration, Program
from ..monoid import monoid
from ..tensor import Tensor
from ..text import text
from .check_access import check_access
from .fills import can_begin


def check(program: Program) -> None:
    """SparseError for the first thing that is wrong with a program."""
    tensors = {t.logical: t for t in program.tensors}
    for tensor in program.tensors:
        _tensor(tensor)
    twice = [name for name, count in Counter(it.name for it in program.iterations()).items() if count > 1]
    if twice:
        raise SparseError(
            f"program {program.name} has several iterations named {twice[0]}",
            "schedules find an iteration's blocks by its name",
            "give each a name of its own",
        )
    for it in program.iterations():
        _iteration(it, tensors)
        check_access(it, tensors)
        if it.begins and not can_begin(it, tensors):
            raise SparseError(
                f"{it.name} is to begin its elements, and comes back to some of them",
                "what it had summed up there would be lost",
                "let it accumulate after a fill (accumulate=True)",
            )
    for step in program.steps:
        if isinstance(step, Fused):
            _fused(step)
        _row_local(step, tensors)
    _params(program)


def _tensor(tensor: Tensor) -> None:
    fmt = tensor.fmt
    if fmt is None:
        return
    if fmt.ndim > len(tensor.shape):
        raise SparseError(
            f"tensor {tensor.name} has {len(tensor.shape)} dimensions, its format {fmt.name} has {fmt.ndim} coordinates",
            "a format stores the first dimensions of a tensor",
            "use a format with fewer coordinates, or give the tensor its full shape",
        )
    for dim, length in _lengths(fmt).items():
        if not same(index(length), index(tensor.shape[dim])):
            raise SparseError(
                f"tensor {tensor.name} is {text(tensor.shape[dim])} long in dimension {dim}, its format {fmt.name} {text(length)}",
                "the format was made for a tensor of another shape",
                "make the format for this shape, or store the tensor in its own",
            )


def _lengths(fmt: Format) -> dict[int, Any]:
    """Lengths of the logical dimensions that are one level's coordinate."""
    at = symbols(fmt.levels)
    pairs = [(level.length, point.coord) for level, point in zip(fmt.levels, at, strict=True)]
    return {dim: n for dim, c in enumerate(fmt.coords(*at)) for n, coordinate in pairs if c is coordinate}


def _iteration(it: Iteration, tensors: dict[Any, Tensor]) -> None:
    if it.combine:
        monoid(it.combine)
    if it.out.source not in tensors:
        raise SparseError(
            f"{it.name} writes {it.out.source.name}, which is no tensor of the program", fix="add it to `tensors`"
        )
    if it.walk is not None and len(it.coords) != it.walk.ndim:
        raise SparseError(
            f"{it.name} names {len(it.coords)} coordinates, its format {it.walk.name} has {it.walk.ndim}",
            fix="give one variable for each logical coordinate of the format",
        )
    if it.walk is None and it.coords:
        raise SparseError(f"{it.name} names coordinates but walks no format", fix="make them free variables")
    check_order(it)
    out = tensors[it.out.source]
    if str(it.value.ty) != out.dtype:
        raise SparseError(
            f"{it.name} writes a value of {it.value.ty} to {out.name}, which is {out.dtype}",
            "an output is accumulated in its own type, and nothing is converted silently",
            f'write T.cast(value, "{out.dtype}")',
        )


def check_order(it: Iteration) -> None:
    """Every axis once, and no level before one that its entries are counted under."""
    levels = it.walk.levels if it.walk else ()
    names = [level.name for level in levels] + [str(v.name) for v in it.free]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise SparseError(
            f"{it.name} has two axes named {twice[0]}",
            "orders and schedules name axes",
            "rename the free variable, or the level",
        )
    if it.order is None:
        return
    order = [name for name in it.order if name != BLOCK]
    if unknown := [name for name in order if name not in names]:
        raise SparseError(
            f"{it.name}: unknown axis {unknown[0]!r} in the order", fix=f"it has {', '.join(sorted(names))}"
        )
    if twice := [name for name, count in Counter(order).items() if count > 1]:
        raise SparseError(f"{it.name}: axis {twice[0]!r} stands twice in the order", fix="name every axis once")
    needed = names if it.depth is None else [str(v.name) for v in it.free]
    if missing := set(needed) - set(order):
        raise SparseError(
            f"{it.name}: the order lacks {', '.join(sorted(missing))}",
            "every level and every free variable needs its place",
            "name all of them",
        )
    if fault := misplaced(levels, order):
        raise SparseError(
            f"{it.name}: the order has {fault[0]} before {fault[1]}",
            f"how many entries {fault[0]} has depends on where the walk stands on {fault[1]}",
            f"put {fault[1]} first",
        )


def misplaced(levels: tuple[Axis, ...], order: list[str]) -> tuple[str, str] | None:
    """A level whose extent is data, and a level above it that an order places later."""
    for n, level in enumerate(levels):
        if not level.variable or level.name not in order:
            continue
        for above in levels[:n]:
            if above.name not in order or order.index(above.name) > order.index(level.name):
                return level.name, above.name
    return None


def _fused(step: Fused) -> None:
    names = ", ".join(it.name for it in step.iterations)
    if len({id(it.walk) for it in step.iterations}) != 1 or step.iterations[0].walk is None:
        raise SparseError(
            f"fused iterations {names} walk different formats",
            "they share the block of the leading levels",
            "fuse iterations over one format",
        )
    walk = step.iterations[0].walk
    if walk.partial is not None and step.levels > walk.partial:
        raise SparseError(
            f"fused iterations {names} share tiles of {walk.levels[walk.partial].name}, the last of which is partial",
            "its padding is a row that another tile has, too",
            "split a length that is a multiple of the tiles",
        )
    if not 1 <= step.levels <= len(step.iterations[0].walk.levels):
        raise SparseError(
            f"fused iterations {names} share {step.levels} levels of {len(step.iterations[0].walk.levels)}",
            fix="share at least the first level, at most all",
        )


def _row_local(step: Iteration | Fused, tensors: dict[Any, Tensor]) -> None:
    """Row-local tensors live in the block of the fused group that writes them."""
    its = step.iterations if isinstance(step, Fused) else (step,)
    written: set[Any] = set()
    for it in its:
        if isinstance(step, Fused):
            written.add(it.out.source)
        for source in (it.out.source, *(load.source for load in loads(it.value))):
            if source in tensors and tensors[source].row_local and source not in written:
                raise SparseError(
                    f"{it.name} uses the row-local tensor {source.name} where no iteration of its fused group wrote it",
                    "such a tensor lives in the block of one row and holds nothing before",
                    "write it in an earlier iteration of the same Fused, or give it memory of its own (row_local=False)",
                )


def _params(program: Program) -> None:
    held = {p.data if isinstance(p, Tensor) else p for p in program.params}
    own = {t.logical for t in program.tensors}
    for tensor in program.tensors:
        if tensor.data is not None and not tensor.row_local and tensor.data not in held:
            raise SparseError(f"tensor {tensor.name} is no parameter of {program.name}", fix="add it to `params`")
    for fmt in program.formats():
        for array in fmt.aux:
            if array not in held:
                raise SparseError(
                    f"array {array.name} of format {fmt.name} is no parameter of {program.name}",
                    fix="add `*fmt.aux` to `params`",
                )
    for it in program.iterations():
        for variable in free_vars(it.value):
            if tirx.is_buffer_var(variable) and variable not in held | own:
                raise SparseError(
                    f"{it.name} reads {variable.name}, which is no tensor of {program.name}", fix="add it to `tensors`"
                )
