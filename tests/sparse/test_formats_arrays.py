"""Arrays that are not what their format says: a FormatError before any kernel runs, never a crash or a silent wrong result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from heddle.ir_passes.sparse.axes import DenseFixed, buffer, index
from heddle.ir_passes.sparse.errors import FormatError
from heddle.ir_passes.sparse.format import Format
from heddle.ir_passes.sparse.formats import CSR, EXAMPLE, LIBRARY, MATRIX_FORMATS, Operand, check_arrays, csr, to_band
from heddle.ir_passes.sparse.formats.semantics import bind, entries
from heddle.schedules.compat import tirx

from .cases import matrices, members, spmm

WITH_ARRAYS = [name for name in LIBRARY if name not in ("dense", "band")]
INT32 = st.one_of(st.integers(-3, 25), st.sampled_from([-(1 << 31), (1 << 31) - 1]))


def symbolic(name: str, member: int, shape: tuple[int, int]) -> Format:
    """The format as the Relax op has it: made for a shape, all that data decides left open."""
    entry = LIBRARY[name]
    found = entry.symbolic(*shape, **entry.params)
    return found[member] if isinstance(found, list) else found


def verdict(fmt: Format, operand: Operand) -> FormatError | None:
    """What `check_arrays` says of an operand's arrays in a format; anything else that it raises is a failure."""
    try:
        check_arrays(fmt, operand.arrays, operand.values, operand.shape)
    except FormatError as error:
        return error
    return None


@pytest.mark.parametrize("name", WITH_ARRAYS)
@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_change_is_refused_or_means_what_the_kernel_computes(name: str, data: st.DataObject) -> None:
    """Numbers anywhere become any others. What passes the checks is a matrix, and kernels and meaning agree on it."""
    a = data.draw(matrices(name))
    operands = members(name, a)
    holding = [n for n, o in enumerate(operands) if any(len(array) for array in o.arrays)]
    assume(holding)
    at = data.draw(st.sampled_from(holding))
    arrays = [array.copy() for array in operands[at].arrays]
    for _ in range(data.draw(st.integers(1, 2))):
        array = data.draw(st.sampled_from([array for array in arrays if len(array)]))
        array[data.draw(st.integers(0, len(array) - 1))] = data.draw(INT32)
    operands[at] = dataclasses.replace(operands[at], arrays=tuple(arrays))
    if verdict(fmt := symbolic(name, at, a.shape), operands[at]) is None:
        found, _ = entries(fmt, bind(fmt, arrays, operands[at].values))
        assert len(set(zip(*map(np.ndarray.tolist, found), strict=True))) == len(found[0]), "an entry stands twice"
        b = np.random.default_rng(0).integers(-8, 9, (a.shape[1], 3)).astype(np.float32)
        meant = np.sum([o.to_dense() for o in operands], axis=0)
        np.testing.assert_array_equal(spmm(name, operands, b), meant @ b)


SORTED = ("csr", "csc", "dcsr", "balanced", "bsr", "grouped", "coo", "ell")


@pytest.mark.parametrize("name", SORTED)
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_entries_that_are_not_in_order_or_stand_twice_are_refused(name: str, data: st.DataObject) -> None:
    """Two neighbours under one parent change places, or become equal: a walk would not notice, a search would."""
    a = data.draw(matrices(name))
    (operand,) = members(name, a)
    *others, indices = operand.arrays if name != "ell" else (*operand.arrays[::2], operand.arrays[1])
    if name == "ell":
        width = operand.values.shape[1]
        starts, counts = np.arange(len(others[0])) * width, others[1]
    elif name == "coo":
        starts, counts = np.searchsorted(others[0], np.arange(a.shape[0])), a.counts
    else:
        starts, counts = others[-1][:-1], np.diff(others[-1])
    pairs = [int(start) + k for start, count in zip(starts, counts, strict=True) for k in range(count - 1)]
    assume(pairs)
    at = data.draw(st.sampled_from(pairs))
    twice = indices.copy()
    twice[at] = twice[at + 1]
    assert "twice" in str(verdict(operand.fmt, with_indices(operand, twice)))
    if name != "coo":  # whose columns are not in order by themselves: its rows are
        swapped = indices.copy()
        swapped[[at, at + 1]] = swapped[[at + 1, at]]
        assert "before" in str(verdict(operand.fmt, with_indices(operand, swapped)))
    elif a.rows[0] < a.rows[-1]:
        rows, columns = (array[::-1].copy() for array in operand.arrays)
        assert "before" in str(verdict(operand.fmt, dataclasses.replace(operand, arrays=(rows, columns))))


def with_indices(operand: Operand, indices: np.ndarray) -> Operand:
    """Other indices on the last level."""
    last = operand.fmt.levels[-3 if operand.fmt.name == "bsr" else -1].aux[-1]
    arrays = [
        indices if buffer is last else array for buffer, array in zip(operand.fmt.aux, operand.arrays, strict=True)
    ]
    return dataclasses.replace(operand, arrays=tuple(arrays))


@pytest.mark.parametrize("name", LIBRARY)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_wrong_lengths_dtypes_and_numbers_of_arrays_are_refused(name: str, data: st.DataObject) -> None:
    a = data.draw(matrices(name))
    operands = members(name, a)
    at = data.draw(st.integers(0, len(operands) - 1))
    operand, fmt = operands[at], operands[at].fmt
    changes: dict[str, Callable[[], Operand]] = {
        "one array more": lambda: dataclasses.replace(operand, arrays=(*operand.arrays, np.zeros(1, np.int32))),
        "values as a list": lambda: dataclasses.replace(operand, values=operand.values.tolist()),
        "a dimension of values less": lambda: dataclasses.replace(operand, values=operand.values.sum(axis=-1)),
        "values longer": lambda: dataclasses.replace(operand, values=longer(operand.values)),
    }
    if operand.arrays:
        which = data.draw(st.integers(0, len(operand.arrays) - 1))

        def changed(array: object) -> Operand:
            arrays = [array if n == which else other for n, other in enumerate(operand.arrays)]
            return dataclasses.replace(operand, arrays=tuple(arrays))  # type: ignore[arg-type]

        array = operand.arrays[which]
        changes |= {
            "one array less": lambda: dataclasses.replace(operand, arrays=operand.arrays[:-1]),
            "int64": lambda: changed(array.astype(np.int64)),
            "float32": lambda: changed(array.astype(np.float32)),
            "two dimensions": lambda: changed(array[None]),
            "a list": lambda: changed(array.tolist()),
            "longer": lambda: changed(longer(array)),
        }
        if len(array):
            changes["shorter"] = lambda: changed(array[:-1])
    what = data.draw(st.sampled_from(sorted(changes)))
    assert verdict(fmt, changes[what]()) is not None, what


def longer(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array, np.zeros((1, *array.shape[1:]), array.dtype)])


@pytest.mark.parametrize("name", LIBRARY)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_format_on_a_tensor_of_another_shape_is_refused(name: str, data: st.DataObject) -> None:
    a = data.draw(matrices(name))
    shape = tuple(max(0, n + data.draw(st.integers(-2, 2))) for n in a.shape)
    assume(shape != a.shape)
    for operand in members(name, a):
        there = dataclasses.replace(operand, shape=shape)
        by_rule = {"band": 1, "cascade_shared": 0}.get(operand.fmt.name)
        same = by_rule is not None and shape[1 - by_rule] == a.shape[1 - by_rule]
        if same and verdict(operand.fmt, there) is None:
            # This dimension is bounded by no level: it may be a matrix with more or fewer rows or columns, too.
            inside = tuple(slice(min(pair)) for pair in zip(shape, a.shape, strict=True))
            np.testing.assert_array_equal(there.to_dense()[inside], operand.to_dense()[inside])
            assert np.count_nonzero(there.to_dense()) == np.count_nonzero(operand.to_dense())
        else:
            assert verdict(operand.fmt, there) is not None
        assert verdict(operand.fmt, dataclasses.replace(operand, shape=a.shape[:1])) is not None
        assert verdict(operand.fmt, dataclasses.replace(operand, shape=(*a.shape, 2))) is not None


def test_a_matrix_that_is_cut_by_blocks_is_refused() -> None:
    """The kernel would leave the last row as it was."""
    indptr, indices = (np.array(numbers, np.int32) for numbers in ([0, 1, 1], [0]))
    with pytest.raises(FormatError, match="bsr is 4 long in dimension 0, the tensor 5"):
        MATRIX_FORMATS["bsr"].operand((indptr, indices), np.zeros((1, 2, 2), np.float32), (5, 4), block=2)


def test_a_band_needs_columns() -> None:
    with pytest.raises(FormatError, match="3 x 0 has no diagonals"):
        to_band(CSR.from_dense(np.zeros((3, 0), np.float32)), 1, 1)


def test_padding_is_in_range() -> None:
    """A kernel selects after it has read, so that padding must not point outside of the dense operand."""
    columns = buffer("columns", (6,), "int32")
    levels = (DenseFixed("I", 3), DenseFixed("J", 2))
    fmt = Format(
        "slots",
        levels,
        lambda i, j: (i.coord, index(columns[j.pos])),
        valid=lambda i, j: index(columns[j.pos]) < 4,
        arrays=(columns,),
    )
    values = np.ones((3, 2), np.float32)
    check_arrays(fmt, (np.array([0, 1, 2, 3, 0, 2], np.int32),), values, (3, 4))
    with pytest.raises(FormatError, match="coordinate 1 of slots.3. is 4, out of range for 4"):
        check_arrays(fmt, (np.array([0, 1, 2, 4, 0, 2], np.int32),), values, (3, 4))


def test_an_extent_that_arrays_do_not_decide_is_refused() -> None:
    m, n = (tirx.Var(v, "int64") for v in "mn")
    arrays = np.array([0, 1], np.int32), np.array([0], np.int32)
    with pytest.raises(FormatError, match=r"an extent of csr, n, is not decided by its arrays"):
        check_arrays(csr(m, n, 1), arrays, np.ones(1, np.float32), (1, 1))


def test_values_of_another_dtype_are_refused() -> None:
    (operand,) = members("csr", EXAMPLE)
    with pytest.raises(FormatError, match="the values of csr are float64.*"):
        check_arrays(operand.fmt, operand.arrays, operand.values.astype(np.float64), operand.shape, dtype="float32")
