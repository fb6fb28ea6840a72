"""Conversions into the formats of the library, and what they refuse (their kernels: test_formats_kernels)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.ir_passes.sparse.errors import FormatError
from heddle.ir_passes.sparse.formats import CSR, group_arrays, to_band, to_bsr, to_ell, to_hyb
from tests.sparse.cases import matrices, members


@given(a=matrices("csr"), parts=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_hyb_members_sum_to_the_matrix(a: CSR, parts: int) -> None:
    found = to_hyb(a, [1, 2, 4], parts)
    np.testing.assert_array_equal(sum(member.to_dense() for member in found), a.to_dense())
    assert len(found) == 4 * parts, "members are the same for every matrix"


def test_conversion_is_vectorised() -> None:
    rng = np.random.default_rng(0)
    flat = rng.choice(100_000 * 20_000, 1_000_000, replace=False)
    a = CSR.from_coordinates(flat // 20_000, flat % 20_000, np.ones(len(flat), np.float32), (100_000, 20_000))
    for name in ("csr", "csc", "coo", "dcsr", "ell", "balanced"):  # in seconds, not minutes
        (operand,) = members(name, a)
        assert operand.values.size >= len(flat)


CSR_2X3 = {"indptr": [0, 2, 3], "indices": [0, 2, 1], "shape": (2, 3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": [0, 3, 1]}, r"indices\[1\] is 3, out of range for 3 coordinates"),
        ({"indices": [0, -1, 1]}, r"indices\[1\] is -1, out of range"),
        ({"indptr": [0, 2]}, "indptr has 2 entries, 3 are needed"),
        ({"indptr": [1, 2, 3]}, "indptr runs from 1 to 3, there are 3 entries"),
        ({"indptr": [0, 2, 2]}, "indptr runs from 0 to 2"),
        ({"indptr": [0, 4, 3]}, "indptr descends at 1: 4, then 3"),
        ({"indices": [2, 0, 1]}, "indices has 2 before 0 in row 0"),
        ({"indices": [2, 2, 1]}, "indices has 2 twice in row 0"),
        ({"indices": [0, 2]}, "2 indices for 3 values"),
        ({"dtype": np.int64}, r"indices is int64\[3\]"),
    ],
)
def test_wrong_arrays_are_refused(change: dict, message: str) -> None:
    case = {"dtype": np.int32} | CSR_2X3 | change
    with pytest.raises(FormatError, match=message):
        CSR(*(np.array(case[n], case["dtype"]) for n in ("indptr", "indices")), np.ones(3, np.float32), case["shape"])


def test_duplicates_are_refused_and_rows_may_begin_where_the_last_ended() -> None:
    with pytest.raises(FormatError, match="indices has 1 twice in row 2"):
        CSR.from_coordinates(np.array([2, 0, 2]), np.array([1, 1, 1]), np.ones(3), (3, 3))
    CSR(np.array([0, 1, 1, 2], np.int32), np.array([2, 0], np.int32), np.ones(2), (3, 3))


def test_what_a_format_cannot_hold_is_refused() -> None:
    a = CSR.from_dense(np.eye(6, 8, 7, dtype=np.float32) + np.eye(6, 8, dtype=np.float32))
    with pytest.raises(FormatError, match=r"entry \(0, 7\) lies outside.*"):
        to_band(a, 1, 6)
    with pytest.raises(FormatError, match="6 x 8 has no whole blocks of 4"):
        to_bsr(a, 4)
    with pytest.raises(ValueError, match="2 entries, more than width=1"):
        to_ell(a, width=1)
    with pytest.raises(ValueError, match="ascending widths"):
        to_hyb(a, [4, 2])


def test_groups_are_ragged_and_named_once() -> None:
    ids, indptr, tokens = group_arrays(np.array([5, -1, 2, 5, 2, 2]), 6)
    assert (ids.tolist(), indptr.tolist(), tokens.tolist()) == ([2, 5], [0, 3, 5], [2, 4, 5, 0, 3])
    ids, indptr, tokens = group_arrays(np.array([[0, 1], [1, 0]]), 2)
    assert (ids.tolist(), indptr.tolist(), tokens.tolist()) == ([0, 1], [0, 2, 4], [0, 1, 0, 1])
    with pytest.raises(FormatError, match="token 0 is in group 1 twice"):
        group_arrays(np.array([[1, 1]]), 2)
    with pytest.raises(FormatError, match="out of range for 5"):
        group_arrays(np.array([5]), 5)
