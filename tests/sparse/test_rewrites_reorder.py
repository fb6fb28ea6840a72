"""Reorder: another loop order, levels under the level that their extent depends on."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from heddle.ir_passes.sparse.errors import SparseError
from heddle.ir_passes.sparse.formats import bsr, csr, to_bsr
from heddle.ir_passes.sparse.iteration import Fused, Iteration, coords
from heddle.ir_passes.sparse.rewrites.fuse_rows import fuse_rows
from heddle.ir_passes.sparse.rewrites.reorder import reorder
from tests.sparse.rewrite_programs import STEPS, assert_same_lowering, attention, normal, spmm, variables
from tests.sparse.tools import build, call, random_matrix


def test_expected():
    m, n, nnz = variables("m n nnz")
    fmt = csr(m, n, nnz)
    found = reorder(spmm(fmt, m, n), "spmm", ["k", "I", "|", "J"])
    assert_same_lowering(found, spmm(fmt, m, n, order=("k", "I", "|", "J")))


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (["J", "I", "k"], "J before I"),
        (["I", "J"], "lacks k"),
        (["I", "J", "k", "l"], "unknown axis 'l'"),
        (["I", "J", "k", "I"], "'I' stands twice"),
    ],
)
def test_must_not_fire(order, message):
    m, n, nnz = variables("m n nnz")
    with pytest.raises(SparseError, match=message):
        reorder(spmm(csr(m, n, nnz), m, n), "spmm", order)


def test_must_not_fire_where_order_is_meaning():
    m, n, nnz = variables("m n nnz")
    program = spmm(csr(m, n, nnz), m, n)
    with pytest.raises(SparseError, match="no iteration gemm"):
        reorder(program, "gemm", ["I"])
    i, j = coords("i j")
    c = program.tensors[2]
    step = Iteration("scan", None, (), {i: 4, j: 8}, c[i, j], c[i + 1, j])
    with pytest.raises(SparseError, match="reads C, which it writes"):
        reorder(dataclasses.replace(program, steps=(step,)), "scan", ["j", "i"])


def test_inside_of_a_fused_group():
    m, n, nnz = variables("m n nnz")
    fused = fuse_rows(attention(csr(m, n, nnz), (m, n)), STEPS)
    found = reorder(fused, "mix", ["I", "c", "J"])
    assert isinstance(found.steps[0], Fused)
    assert [it.order for it in found.iterations() if it.order] == [("I", "c", "J")]


def test_numeric_every_order_of_bsr():
    fmt = bsr(8, 6, variables("blocks")[0], 2)
    program = spmm(fmt, 8, 6, 4)
    a, b = random_matrix(np.random.default_rng(0), 8, 6, 0.2), normal(1, 6, 4)
    operand, tried = to_bsr(a, 2), 0
    for order in itertools.permutations(["IO", "JO", "II", "JI", "k"]):
        if order.index("JO") < order.index("IO"):
            with pytest.raises(SparseError, match="JO before IO"):
                reorder(program, "spmm", order)
        elif order.index("II") < order.index("JI"):  # half of them: a minute of compilation tells no more
            tried += 1
            if tried % 5 == 0:
                found = call(build(reorder(program, "spmm", order)), [*operand.params, b], (8, 4))
                np.testing.assert_allclose(found, a.to_dense() @ b, atol=1e-5)
    assert tried == 30
