"""Formats as text, for docs and for looking at one's own: what a format says, what its arrays hold, where each entry lies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....schedules.compat import tirx
from ..format import Format
from .operand import Operand
from .registry import EXAMPLE, LIBRARY, Composition, MatrixFormat
from .semantics import bind, stored


def draw(operand: Operand) -> str:
    """The arrays of an operand, and, where its values are small integers, these as letters: a for 1, * where none counts.

    Beside the matrix stands the number of the entry of `values` that each coordinate has; "." has none.
    """
    fmt = operand.fmt
    coordinates, places, counts = stored(fmt, bind(fmt, operand.arrays, operand.values))
    keep = np.ones(len(coordinates[0]), bool) if counts is None else counts
    number = np.arange(operand.values.size).reshape(operand.values.shape)
    letters = np.full(operand.values.shape, "*", object)
    at = np.full(operand.shape, ".", object)
    matrix = np.full(operand.shape, ".", object)
    for n in np.flatnonzero(keep):
        place, where = tuple(p[n] for p in places), tuple(c[n] for c in coordinates)
        letters[place] = _letter(operand.values[place])
        matrix[where], at[where] = letters[place], str(number[place])
    rows = [
        (buffer.name, " ".join(map(str, a)) or "(empty)") for buffer, a in zip(fmt.aux, operand.arrays, strict=True)
    ]
    rows.append((f"values {list(operand.values.shape)}", _nested(letters) or "(empty)"))
    left = max(len(name) for name, _ in rows)
    lines = [f"{name:<{left}}  {text}" for name, text in rows]
    return "\n".join([*lines, "", *_beside(_grid(matrix, 1), _grid(at, len(str(number.size))))])


def _letter(value: float) -> str:
    return chr(ord("a") + int(value) - 1) if value in range(1, 27) else f"{value:g}"


def _nested(array: np.ndarray) -> str:
    """Rows apart by /, blocks by |."""
    separator = {1: " ", 2: " / "}.get(array.ndim, " | ")
    return separator.join(map(str, array) if array.ndim == 1 else map(_nested, array))


def _grid(array: np.ndarray, width: int) -> list[str]:
    return [" ".join(f"{x:>{width}}" for x in row) for row in array]


def _beside(left: Sequence[str], right: Sequence[str]) -> list[str]:
    return [f"{a}      {b}" for a, b in zip(left, right, strict=True)]


def example(entry: MatrixFormat | Composition) -> tuple[list[Format], list[Operand]]:
    """The formats of an entry of the library with its extents as variables, and the example matrix in them."""
    m, n = (tirx.Var(name, "int64") for name in "mn")
    formats, operands = entry.symbolic(m, n, **entry.params), entry.convert(EXAMPLE, **entry.params)
    if isinstance(formats, Format):
        assert isinstance(operands, Operand)
        return [formats], [operands]
    assert isinstance(operands, list)
    return formats, operands


def section(entry: MatrixFormat | Composition) -> str:
    """An entry of the library in Markdown: what it is, its drawing, and each member as text and as arrays."""
    params = ", ".join(f"{name}={value}" for name, value in entry.params.items())
    lines = [f"### {entry.name}", "", entry.about, ""]
    lines += ["```text", entry.drawing, "```", ""]
    lines += [f"The example{f' with {params}' if params else ''}:", ""]
    for fmt, operand in zip(*example(entry), strict=True):
        lines += ["```text", str(fmt), "", draw(operand), "```", ""]
    return "\n".join(lines)


def library_page() -> str:
    """All formats of the library in Markdown."""
    return "\n".join(section(entry) for entry in LIBRARY.values())
