"""Patterns of each head: the head is a coordinate of the walk, as in block-sparse attention."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.ir_passes.sparse.axes import DenseFixed, SparseVariable
from heddle.ir_passes.sparse.format import Format
from heddle.ir_passes.sparse.formats import CSR, to_csr
from heddle.ir_passes.sparse.lowering import lower
from heddle.ir_passes.sparse.rewrites.fuse_rows import fuse_rows
from tests.sparse.rewrite_programs import STEPS, attention, normal, softmax_attention, variables
from tests.sparse.tools import build, call

LOCAL = {"S": 128, "P": 128, "M": True, "L": True, "O": True}


def heads_csr(heads, m, n, nnz):
    """csr for each head: one indptr over all rows of all heads; coordinates (head, row, column)."""
    levels = (DenseFixed("H", heads), DenseFixed("I", m), SparseVariable("J", n, nnz, heads * m, "heads_"))
    return Format("heads", levels, lambda h, i, j: (h.coord, i.coord, j.coord))


def heads_bsr(heads, m, n, blocks, block, causal):
    """Blocks of columns for each head and row: row blocks stay rows, so that a row is one point of two levels."""
    levels = (
        DenseFixed("H", heads),
        DenseFixed("I", m),
        SparseVariable("JO", n // block, blocks, heads * m, "heads_"),
        DenseFixed("JI", block),
    )

    def coords(h, i, jo, ji):
        return h.coord, i.coord, jo.coord * block + ji.coord

    def valid(h, i, jo, ji):
        return coords(h, i, jo, ji)[2] <= i.coord

    return Format("heads", levels, coords, valid if causal else None)


def stacked(masks):
    """The matrices of all heads one under the other."""
    return to_csr(CSR.from_dense(np.concatenate(masks).astype(np.float32)))


def masks_of(rng, heads, m, n):
    masks = rng.random((heads, m, n)) < np.linspace(0.1, 0.6, heads)[:, None, None]
    masks[:, m // 2] = False  # an empty row
    masks[0] &= rng.random((m, 1)) < 0.5  # many of them
    return masks


@pytest.mark.parametrize("local", [{}, LOCAL], ids=["memory", "local"])
def test_every_head_has_its_own_entries(local):
    heads, m, n, nnz = variables("h m n nnz")
    program = attention(heads_csr(heads, m, n, nnz), (heads, m, n), levels=2)
    kernel = build(fuse_rows(program, STEPS, 2, local))
    rng = np.random.default_rng(0)
    for shape in ((3, 9, 11), (1, 4, 2), (5, 1, 1)):
        masks = masks_of(rng, *shape)
        operand = stacked(masks)
        q, k, v = normal(1, *shape[:2], 8), normal(2, shape[0], shape[2], 8), normal(3, shape[0], shape[2], 8)
        count = len(operand.values)
        scratch = [count, shape[:2], count, shape[:2], (*shape[:2], 8)] if not local else []
        buffers = [np.full(size, np.nan, np.float32) for size in scratch]
        found = call(kernel, [*operand.arrays, q, k, v, *buffers], q.shape)
        np.testing.assert_allclose(found, softmax_attention(q, k, v, masks), atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_block_sparse_attention_of_each_head(causal):
    heads, m, n, block = 3, 12, 12, 4
    program = attention(heads_bsr(heads, m, n, *variables("blocks"), block, causal), (heads, m, n), levels=2)
    kernel = build(fuse_rows(program, STEPS, 2, LOCAL))
    rng = np.random.default_rng(1)
    for density in (0.0, 0.4, 1.0):
        blocks = rng.random((heads, m, n // block)) < density
        operand = stacked(blocks)
        mask = np.repeat(blocks, block, axis=2)
        if causal:
            mask &= np.tril(np.ones((m, n), bool))
        q, k, v = (normal(seed, heads, m, 8) for seed in (2, 3, 4))
        found = call(kernel, [*operand.arrays, q, k, v], q.shape)
        np.testing.assert_allclose(found, softmax_attention(q, k, v, mask), atol=1e-5)


def test_heads_are_rows_of_their_own_in_the_lowered_program():
    heads, m, n, nnz = variables("h m n nnz")
    program = attention(heads_csr(heads, m, n, nnz), (heads, m, n), levels=2)
    text = lower(fuse_rows(program, STEPS, 2, LOCAL)).script()
    assert 'T.sblock("score_row")' in text
    assert "v_H * m + v_I" in text
