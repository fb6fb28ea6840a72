"""What a program must be before it is lowered; each violation is a SparseError that says what to write instead."""

from __future__ import annotations

from typing import Any

from ....schedules.compat import tirx
from ..errors import SparseError
from ..expr import free_vars, loads, same
from ..iteration import BLOCK, Fused, Iteration, Program
from ..monoid import monoid
from ..tensor import Tensor
from .access import determined, on_walk


def check(program: Program) -> None:
    """SparseError for the first thing that is wrong with a program."""
    tensors = {t.logical: t for t in program.tensors}
    for tensor in program.tensors:
        _tensor(tensor)
    for it in program.iterations():
        _iteration(it, tensors)
    for step in program.steps:
        if isinstance(step, Fused):
            _fused(step)
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
        if not same(_number(length), _number(tensor.shape[dim])):
            raise SparseError(
                f"tensor {tensor.name} is {tensor.shape[dim]} long in dimension {dim}, its format {fmt.name} {length}",
                "the format was made for a tensor of another shape",
                "make the format for this shape, or store the tensor in its own",
            )


def _lengths(fmt: Any) -> dict[int, Any]:
    """Lengths of the logical dimensions that are one level's coordinate."""
    from ..format import symbols

    at = symbols(fmt.levels)
    found = {}
    for dim, coordinate in enumerate(fmt.coords(*at)):
        for level, point in zip(fmt.levels, at, strict=True):
            if coordinate is point.coord:
                found[dim] = level.length
    return found


def _number(value: Any) -> Any:
    if isinstance(value, int | tirx.IntImm):
        return tirx.IntImm("int64", int(value))
    return value


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
    known = {level.name for level in it.walk.levels} if it.walk else set()
    known |= {str(v.name) for v in it.free}
    for name in it.order or ():
        if name != BLOCK and name not in known:
            raise SparseError(
                f"{it.name}: unknown axis {name!r} in the order", fix=f"it has {', '.join(sorted(known))}"
            )
    if it.order and it.depth is None and (missing := known - set(it.order)):
        raise SparseError(
            f"{it.name}: the order lacks {', '.join(sorted(missing))}",
            "every level and every free variable needs its place",
            "name all of them",
        )
    if not determined(it):
        raise SparseError(
            f"{it.name} writes {it.out}, whose indices its walk and free variables do not determine",
            fix="index the output with coordinates of the walk and free variables only",
        )
    out = tensors[it.out.source]
    if out.fmt is not None and it.depth is None and not on_walk(it, out, it.out.indices):
        raise SparseError(
            f"{it.name} writes {out.name}, stored in {out.fmt.name}, where its walk does not stand",
            "new entries cannot be made while walking",
            "walk the output's format, and read the other operands off the walk",
        )
    _co_iteration(it, tensors)


def _co_iteration(it: Iteration, tensors: dict[Any, Tensor]) -> None:
    """Reading off the walk gives what both operands hold (an intersection): right for products only."""

    def off(load: Any) -> bool:
        tensor = tensors.get(load.source)
        return tensor is not None and tensor.fmt is not None and not on_walk(it, tensor, load.indices)

    for name in (load.source.name for load in loads(it.value) if off(load)):
        for term in terms(it.value):
            if not any(on_walk(it, tensors[ld.source], ld.indices) for ld in loads(term) if ld.source in tensors):
                raise SparseError(
                    f"{it.name} adds {name}, which its walk over {it.walk.name if it.walk else 'dense axes'} does not visit",
                    "where only one operand of a sum has an entry, the walk over the other one misses it",
                    "decompose the sum: one iteration for each operand, the later ones accumulating",
                )


def terms(expr: Any) -> list[Any]:
    """The summands of an expression."""
    if isinstance(expr, tirx.Add | tirx.Sub):
        return terms(expr.a) + terms(expr.b)
    return [expr]


def _fused(step: Fused) -> None:
    walks = {id(it.walk) for it in step.iterations}
    if len(walks) != 1 or step.iterations[0].walk is None:
        raise SparseError(
            f"fused iterations {', '.join(it.name for it in step.iterations)} walk different formats",
            "they share the block of the leading levels",
            "fuse iterations over one format",
        )


def _params(program: Program) -> None:
    held = {p.data if isinstance(p, Tensor) else p for p in program.params}
    for tensor in program.tensors:
        if tensor.data is not None and not tensor.row_local and tensor.data not in held:
            raise SparseError(f"tensor {tensor.name} is no parameter of {program.name}", fix="add it to `params`")
    for it in program.iterations():
        for array in it.walk.aux if it.walk else ():
            if array not in held:
                raise SparseError(
                    f"array {array.name} of format {it.walk.name if it.walk else ''} is no parameter of {program.name}",
                    fix="add `*fmt.aux` to `params`",
                )
        own = {t.logical for t in program.tensors}
        for variable in free_vars(it.value):
            if (
                tirx.is_buffer_var(variable)
                and variable not in held
                and variable not in {t.logical for t in program.tensors}
            ):
                raise SparseError(
                    f"{it.name} reads {variable.name}, which is no tensor of {program.name}", fix="add it to `tensors`"
                )
