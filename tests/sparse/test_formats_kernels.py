"""Every format of the library: conversion, spmm and sddmm, against the all-dense lowering of the same Iteration and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.ir_passes.sparse.errors import FormatError
from heddle.ir_passes.sparse.formats import CSR, LIBRARY, check_arrays

from .cases import matrices, members, sddmm, spmm

ALL = settings(max_examples=100, deadline=None)
COLUMNS = st.integers(0, 9)


def small_integers(rows: int, columns: int, seed: int) -> np.ndarray:
    """A dense operand whose sums are exact: every order of summation gives the same bits."""
    return np.random.default_rng(seed).integers(-8, 9, (rows, columns)).astype(np.float32)


@pytest.mark.parametrize("name", LIBRARY)
@given(data=st.data())
@ALL
def test_conversion_stores_the_matrix(name: str, data: st.DataObject) -> None:
    a = data.draw(matrices(name))
    operands = members(name, a)
    np.testing.assert_array_equal(np.sum([o.to_dense() for o in operands], axis=0), a.to_dense())
    for operand in operands:
        check_arrays(operand.fmt, operand.arrays, operand.values, a.shape, dtype="float32")


@pytest.mark.parametrize("name", LIBRARY)
@given(data=st.data(), columns=COLUMNS)
@ALL
def test_spmm(name: str, data: st.DataObject, columns: int) -> None:
    a = data.draw(matrices(name))
    b = small_integers(a.shape[1], columns, seed=1)
    found = spmm(name, members(name, a), b)
    np.testing.assert_array_equal(found, spmm("dense", members("dense", a), b))
    np.testing.assert_array_equal(found, scipy.sparse.csr_matrix((a.data, a.indices, a.indptr), a.shape) @ b)


@pytest.mark.parametrize("name", LIBRARY)
@given(data=st.data(), columns=COLUMNS)
@ALL
def test_sddmm(name: str, data: st.DataObject, columns: int) -> None:
    a = data.draw(matrices(name))
    x, z = (small_integers(rows, columns, seed) for seed, rows in enumerate(a.shape))
    found = sddmm(name, members(name, a), x, z)
    np.testing.assert_array_equal(found, sddmm("dense", members("dense", a), x, z))
    np.testing.assert_array_equal(found, a.to_dense() * (x @ z.T))


@given(data=st.data(), a=matrices("csr"))
@ALL
def test_duplicates_are_refused(data: st.DataObject, a: CSR) -> None:
    """An entry that stands twice is refused by the constructor, wherever it stands."""
    if not a.nnz:
        return
    again = data.draw(st.integers(0, a.nnz - 1))
    rows, columns, values = (np.append(part, part[again]) for part in (a.rows, a.indices, a.data))
    order = data.draw(st.permutations(range(len(rows))))
    with pytest.raises(FormatError, match=rf"indices has {a.indices[again]} twice in row {a.rows[again]}"):
        CSR.from_coordinates(rows[order], columns[order], values[order], a.shape)
