"""Operands of the Relax ops at compile time: what cannot be a matrix of the format is refused before anything is compiled."""

from __future__ import annotations

from typing import Any

import pytest

from heddle.ir_passes.dialect import grouped_matmul, sddmm, spmm
from heddle.ir_passes.sparse.errors import FormatError
from heddle.schedules.compat import nn

Shape = tuple[Any, ...]


def tensor(shape: Shape, dtype: str = "float32") -> nn.Tensor:
    return nn.Tensor.placeholder(list(shape), dtype)


def arrays(*shapes: Shape) -> list[nn.Tensor]:
    return [tensor(shape, "int32") for shape in shapes]


CSR, VALUES, B = arrays((5,), ("nnz",)), tensor(("nnz",)), tensor((6, 16))


@pytest.mark.parametrize(
    ("operands", "values", "b", "format", "message"),
    [
        (CSR[:1], VALUES, B, "csr", "csr takes 2 arrays, here are 1\n.*csr_J_indptr, csr_J_indices"),
        (arrays((4,), ("nnz",)), VALUES, B, "csr", r"csr_J_indptr \(m \+ 1\) is 4, 5 are needed"),
        (arrays((5,), (7,)), tensor((8,)), B, "csr", r"dimension 0 of the values of csr \(nnz\) is 8, 7 are needed"),
        (
            [tensor((5,), "int64"), CSR[1]],
            VALUES,
            B,
            "csr",
            "csr_J_indptr is .*int64.*\n.*int32 of 1 dimension is read",
        ),
        (CSR, tensor(("nnz",), "float16"), B, "csr", "the values of csr is .*float16"),
        (CSR, tensor(("nnz", 1)), B, "csr", "the values of csr is .*nnz, 1"),
        (CSR, VALUES, B, "balanced", "balanced takes 3 arrays, here are 2"),
        (CSR, VALUES, tensor((6, 16), "float16"), "csr", "b is .*float16"),
        (CSR, VALUES, tensor((16,)), "csr", "b is .*16"),
        ([], tensor((4, 7)), B, "dense", r"dimension 1 of the values of dense \(n\) is 7, 6 are needed"),
    ],
)
def test_spmm_over_other_arrays(operands: Any, values: Any, b: Any, format: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        spmm(operands, values, b, rows=4, format=format)


def test_blocks_that_do_not_divide_a_matrix() -> None:
    with pytest.raises(FormatError, match="blocks of 4 for a side of 6"):
        spmm(arrays((2,), ("nnz",)), tensor(("nnz", 4, 4)), B, rows=4, format="bsr", block=4)
    with pytest.raises(FormatError, match="dimension 2 of the values of bsr .4. is 2, 4 are needed"):
        spmm(arrays((2,), ("nnz",)), tensor(("nnz", 4, 2)), tensor((8, 16)), rows=4, format="bsr", block=4)


def test_sddmm_of_other_sides() -> None:
    with pytest.raises(FormatError, match="the width of z .that of x. is 32, 16 are needed"):
        sddmm(CSR, VALUES, tensor((4, 16)), tensor((6, 32)), format="csr")
    with pytest.raises(FormatError, match=r"csr_J_indptr \(m \+ 1\) is 5, 10 are needed"):
        sddmm(CSR, VALUES, tensor((9, 16)), tensor((6, 16)), format="csr")


def test_grouped_matmul_of_other_arrays() -> None:
    ids, indptr, tokens = arrays((2,), (3,), (4,))
    x, w = tensor((9, 16)), tensor((3, 16, 8))
    with pytest.raises(FormatError, match="number of rows of a matrix of w .* is 12, 16 are needed"):
        grouped_matmul(ids, indptr, tokens, x, tensor((3, 12, 8)))
    with pytest.raises(FormatError, match=r"grouped_T_indptr \(used \+ 1\) is 4, 3 are needed"):
        grouped_matmul(ids, tokens, tokens, x, w)
    with pytest.raises(FormatError, match="grouped_E_indices is .*float32"):
        grouped_matmul(x, indptr, tokens, x, w)
