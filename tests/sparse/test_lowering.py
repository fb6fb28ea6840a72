"""What a differential fuzzer found: programs at the edges of coverage, fills, searches and splits, against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from heddle.ir_passes.sparse.axes import DenseFixed, DenseVariable, SparseFixed, SparseVariable
from heddle.ir_passes.sparse.errors import SparseError
from heddle.ir_passes.sparse.format import Format
from heddle.ir_passes.sparse.formats import csr, grouped
from heddle.ir_passes.sparse.iteration import Fused, Iteration, Program, coords
from heddle.ir_passes.sparse.lowering import lower
from heddle.ir_passes.sparse.rewrites.decompose import decompose
from heddle.ir_passes.sparse.rewrites.elide_masks import elide_masks
from heddle.ir_passes.sparse.rewrites.rewalk import rewalk
from heddle.ir_passes.sparse.rewrites.split import split_level, split_rows
from heddle.ir_passes.sparse.tensor import Tensor
from heddle.schedules.compat import T, tirx
from tests.sparse.tools import build, call

i, j, k = coords("i j k")


def blocks(m: int, block: int, length: int) -> Format:
    """A vector in blocks, of which the first `length` entries count."""
    levels = (DenseFixed("O", m // block), DenseFixed("I", block))
    at: Callable[..., Any] = lambda o, x: (o.coord * block + x.coord,)  # noqa: E731
    return Format("blocks", levels, at, lambda o, x: at(o, x)[0] < length)


def vector_program(fmt: Format, m: int, out: int, combine: str | None = "sum", **options: Any) -> Program:
    a, c = Tensor("A", (m,), fmt), Tensor("C", (out,))
    it = Iteration("step", fmt, (i,), {}, c[i], a[i], combine, **options)
    return Program("step", (it,), (a, c), (*fmt.aux, a, c))


def test_an_output_that_is_longer_than_the_blocks_is_filled() -> None:
    found = call(build(vector_program(blocks(2, 2, 2), 2, 3)), [np.array([[1, 2]], np.float32)], (3,))
    np.testing.assert_array_equal(found, [1, 2, 0])


def test_a_position_beside_a_coordinate_above_it_does_not_cover() -> None:
    """Four positions under two parents: each position is under one of them only."""
    rows = DenseVariable("I", 4, 4, 2)
    fmt = Format("dealt", (DenseFixed("W", 2), rows), lambda w, x: (x.pos, w.coord))
    a, c = Tensor("A", (4, 2), fmt), Tensor("C", (4, 2))
    it = Iteration("step", fmt, (i, j), {}, c[i, j], a[i, j], "sum")
    kernel = build(Program("step", (it,), (a, c), (rows.indptr, a, c)))
    found = call(kernel, [np.array([0, 1, 4], np.int32), np.arange(1, 5, dtype=np.float32)], (4, 2))
    np.testing.assert_array_equal(found, [[1, 0], [0, 2], [0, 3], [0, 4]])


def reader(searched: Format, arrays: tuple[Any, ...], m: int, n: int) -> Program:
    """C[i, j] = S[i, j], 7 where nothing is stored."""
    s, c = Tensor("S", (m, n), searched, miss=7.0), Tensor("C", (m, n))
    it = Iteration("read", None, (), {i: m, j: n}, c[i, j], s[i, j] + T.float32(0))
    return Program("read", (it,), (s, c), (*arrays, s, c))


def test_entries_that_do_not_count_are_not_found() -> None:
    levels = (DenseFixed("I", 3), SparseVariable("J", 3, 5, 3))
    lower_half = Format("half", levels, lambda a, b: (a.coord, b.coord), lambda a, b: b.coord <= a.coord)
    arrays = np.array([0, 2, 3, 5], np.int32), np.array([0, 2, 1, 0, 2], np.int32)
    found = call(build(reader(lower_half, lower_half.aux, 3, 3)), [*arrays, np.arange(1, 6, dtype=np.float32)], (3, 3))
    np.testing.assert_array_equal(found, [[1, 7, 7], [7, 3, 7], [4, 7, 5]])


@pytest.mark.parametrize(
    ("levels", "at", "message"),
    [
        # found by position, and a coordinate above that would go unchecked
        (
            (SparseFixed("I", 3, 2), DenseVariable("J", 3, 3, 2)),
            lambda a, b: (a.coord, b.pos),
            "I above it is a coordinate",
        ),
        # the place of a value needs the level above, which a position does not tell
        ((DenseFixed("I", 1), DenseFixed("J", 3)), lambda a, b: (b.pos, b.coord), "its coordinate 1 is J"),
        ((DenseFixed("I", 3), DenseFixed("J", 3)), lambda a, b: (a.coord, a.coord), "its coordinate 1 is I"),
        (
            (DenseFixed("I", 3), DenseFixed("J", 3)),
            lambda a, b: (a.coord, a.coord + b.coord),
            r"its coordinate 1 is I \+ J",
        ),
    ],
)
def test_formats_whose_coordinates_do_not_tell_their_levels_are_not_searched(
    levels: Any, at: Callable[..., Any], message: str
) -> None:
    fmt = Format("odd", levels, at)
    with pytest.raises(SparseError, match=message):
        lower(reader(fmt, fmt.aux, 3, 3))


def test_a_position_does_not_tell_where_a_value_of_the_levels_above_stands() -> None:
    fmt = Format("tiles", (DenseFixed("O", 2), DenseFixed("I", 3)), lambda o, x: (x.pos,))
    s, c = Tensor("S", (6,), fmt, miss=0.0), Tensor("C", (6,))
    it = Iteration("read", None, (), {i: 6}, c[i], s[i] + T.float32(0))
    with pytest.raises(SparseError, match="found by its position, which does not tell"):
        lower(Program("read", (it,), (s, c), (s, c)))


def test_a_sum_over_fused_rows_is_filled_in_front() -> None:
    fmt = csr(3, 4, tirx.Var("nnz", "int64"))
    a, c = Tensor("A", (3, 4), fmt), Tensor("C", (2,))
    it = Iteration("all", fmt, (i, j), {k: 2}, c[k], a[i, j], "sum")
    kernel = build(Program("fused", (Fused(1, (it,)),), (a, c), (*fmt.aux, a, c)))
    arrays = np.array([0, 2, 2, 3], np.int32), np.array([0, 1, 2], np.int32), np.array([1, 2, 4], np.float32)
    np.testing.assert_array_equal(call(kernel, arrays, (2,)), [7, 7])


def test_groups_are_reduced_where_the_output_has_no_rows_of_theirs() -> None:
    used, entries = (tirx.Var(name, "int64") for name in ("used", "entries"))
    fmt = grouped(4, 5, used, entries)
    a, c = Tensor("A", (4, 5), fmt), Tensor("C", (2,))
    it = Iteration("all", fmt, (i, j), {k: 2}, c[k], a[i, j], "sum")
    kernel = build(Program("all", (it,), (a, c), (*fmt.aux, a, c)))
    arrays = [np.array(x, np.int32) for x in ([0, 3], [0, 2, 3], [1, 4, 0])]
    np.testing.assert_array_equal(call(kernel, [*arrays, np.array([1, 2, 4], np.float32)], (2,)), [7, 7])


def test_a_reduction_over_no_rows_at_all_leaves_the_identity() -> None:
    fmt = Format("none", (SparseFixed("I", 3, 0),), lambda a: (a.coord,))
    a, c = Tensor("A", (3,), fmt), Tensor("C", (2,))
    it = Iteration("all", fmt, (i,), {k: 2}, c[k], a[i], "sum")
    kernel = build(Program("all", (it,), (a, c), (*fmt.aux, a, c)))
    np.testing.assert_array_equal(call(kernel, [np.zeros(0, np.int32), np.zeros(0, np.float32)], (2,)), [0, 0])


def test_partial_tiles_stay_partial_when_they_are_split_again() -> None:
    fmt = Format("vector", (DenseFixed("I", 3),), lambda x: (x.coord,))
    tiles = split_level(fmt, "I", 2)
    again = split_rows(tiles, 2, "dealt")
    assert (tiles.partial, again.partial, split_level(tiles, "Ii", 2).partial) == (0, 1, 0)
    a, y = Tensor("A", (3,), fmt), Tensor("Y", (3,), fmt)
    it = Iteration("twice", fmt, (i,), {}, y[i], a[i] + a[i])
    program = rewalk(rewalk(Program("twice", (it,), (a, y), (a, y)), fmt, tiles), tiles, again)
    with pytest.raises(SparseError, match="the last of which is partial"):
        lower(program)
    rows = vector_program(fmt, 3, 3, depth=1)
    with pytest.raises(SparseError, match="the last of which is partial"):
        lower(rewalk(rows, fmt, tiles))


def test_partial_tiles_bring_the_mask_back() -> None:
    """The mask was elided as all entries count; the padding of the last tile stands at one that does."""
    fmt = blocks(3, 1, 3)
    program = elide_masks(vector_program(fmt, 3, 3), ["A"])
    assert not program.iterations()[0].masked
    tiled = elide_masks(rewalk(program, fmt, split_level(fmt, "O", 2)), ["A"])
    assert tiled.iterations()[0].masked
    found = call(build(tiled), [np.array([[1], [2], [3]], np.float32)], (3,))
    np.testing.assert_array_equal(found, [1, 2, 3])


def test_disjoint_members_share_an_output_without_rows() -> None:
    """Rows are dealt to two members, and the sum over rows is of both."""
    tall = [
        Format(f"rows{n}", (SparseFixed("I", 4, 2, 1, f"r{n}_"), DenseFixed("J", 3)), lambda a, b: (a.coord, b.coord))
        for n in range(2)
    ]
    fmt = csr(4, 3, tirx.Var("nnz", "int64"))
    a, c = Tensor("A", (4, 3), fmt), Tensor("C", (3,))
    it = Iteration("sum", fmt, (i, j), {}, c[j], a[i, j], "sum")
    kernel = build(decompose(Program("sum", (it,), (a, c), (*fmt.aux, a, c)), "sum", tall))
    rows = [np.array(x, np.int32) for x in ([0, 2], [1, 3])]
    values = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    np.testing.assert_array_equal(call(kernel, [rows[0], values[0], rows[1], values[1]], (3,)), values.sum((0, 1)))


def test_what_depends_on_the_order_is_refused() -> None:
    fmt = csr(3, 3, tirx.Var("nnz", "int64"))
    a, c = Tensor("A", (3, 3), fmt), Tensor("C", (3,))

    def step(value: Any, combine: str | None) -> Program:
        it = Iteration("step", fmt, (i, j), {}, c[i], value, combine)
        return Program("step", (it,), (a, c), (*fmt.aux, a, c))

    with pytest.raises(SparseError, match=r"reads C\[j\], and writes C\[i\]"):
        lower(step(a[i, j] * c[j], "sum"))
    with pytest.raises(SparseError, match="reads C.i., and writes C.i."):
        lower(step(a[i, j] * c[i], "max"))
    with pytest.raises(SparseError, match=r"assigns C\[i\] anew for every point of J"):
        lower(step(a[i, j], None))
