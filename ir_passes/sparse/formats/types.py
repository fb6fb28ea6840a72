"""The check of an operand at compile time, where arrays have types and extents but no contents yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....schedules.compat import Analyzer, TensorType, ir, tirx
from ..axes import index
from ..errors import FormatError
from ..expr import substitute
from ..format import Format
from ..text import text


def check_types(fmt: Format, arrays: Sequence[TensorType], values: TensorType, extents: Mapping[Any, Any]) -> None:
    """FormatError unless tensors of these types can be the `arrays` (in the order of `fmt.aux`) and values of a format.

    `extents` gives variables of the format a number or an expression; the others are decided by the first length that is one of
    them, or one of them and a constant. Lengths of which nothing is known but that they are equal at run time are let pass.
    """
    names = [str(b.name) for b in fmt.aux]
    if len(arrays) != len(names):
        raise FormatError(
            f"{fmt.name} takes {len(names)} arrays, here are {len(arrays)}",
            f"they are {', '.join(names) or 'none'}",
            "give them in this order, and name the format that the operand is stored in",
        )
    for name, array in zip(names, arrays, strict=True):
        check_tensor(name, array, 1, "int32")
    check_tensor(f"the values of {fmt.name}", values, len(fmt.storage()), "float32")
    lengths = [(name, b.shape[0], a.shape[0]) for name, b, a in zip(names, fmt.aux, arrays, strict=True)]
    lengths += [
        (f"dimension {dim} of the values of {fmt.name}", expr, length)
        for dim, (expr, length) in enumerate(zip(fmt.storage(), values.shape, strict=True))
    ]
    known = {variable: index(extent) for variable, extent in extents.items()}
    for _, expr, length in lengths:
        _decide(expr, index(length), known)
    for what, expr, length in lengths:
        check_length(f"{what} ({text(expr)})", substitute(expr, known), length)


def check_tensor(name: str, found: Any, ndim: int, dtype: str) -> None:
    """FormatError unless a type is that of a tensor of this rank and dtype."""
    shape = getattr(found, "shape", None)
    if shape is None or len(shape) != ndim or str(found.dtype) != dtype:
        raise FormatError(
            f"{name} is {found}",
            f"{dtype} of {ndim} dimension{'s' if ndim > 1 else ''} is read",
            "convert the operand, or name the format that it is stored in",
        )


def check_length(what: str, wanted: Any, found: Any) -> None:
    """FormatError where two extents surely differ."""
    apart = Analyzer().simplify(index(wanted) - index(found))
    if isinstance(apart, tirx.IntImm) and int(apart.value):
        raise FormatError(
            f"{what} is {text(found)}, {text(Analyzer().simplify(index(wanted)))} are needed",
            "the tensors are of matrices of different shapes, or in another format",
            "convert this matrix, and pass all of its arrays",
        )


def _decide(expr: Any, length: Any, known: dict[Any, Any]) -> None:
    """Bind the variable of an extent that is one, or one and a constant."""
    if isinstance(expr, tirx.Add | tirx.Sub) and isinstance(expr.b, tirx.IntImm):
        length = length - expr.b if isinstance(expr, tirx.Add) else length + expr.b
        expr = expr.a
    if isinstance(expr, ir.Var):
        known.setdefault(expr, length)
