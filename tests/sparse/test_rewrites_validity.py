"""Validity with row blocks over 1: causal and windowed masks inside of tiles, on formats of blocks and bands."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from heddle.ir_passes.sparse.axes import index
from heddle.ir_passes.sparse.errors import SparseError
from heddle.ir_passes.sparse.formats import CSR, band, bsr, ell, to_bsr
from heddle.ir_passes.sparse.iteration import Iteration, Program, coords
from heddle.ir_passes.sparse.lowering import lower
from heddle.ir_passes.sparse.rewrites.elide_masks import elide_masks
from heddle.ir_passes.sparse.tensor import Tensor
from heddle.schedules.compat import T
from tests.sparse.rewrite_programs import normal, spmm, variables
from tests.sparse.tools import build, call


def causal(fmt, window):
    """The format with the entries of j <= i and i - j < window alone."""
    whole = fmt.coords

    def valid(*points):
        i, j = whole(*points)
        return T.And(j <= i, i - j < index(window))

    return dataclasses.replace(fmt, valid=valid)


@pytest.mark.parametrize("window", [1, 3, 5, 100])
@pytest.mark.parametrize("combine", ["sum", "max"])
def test_causal_windows_in_blocks(window, combine):
    m, block = 12, 4
    fmt = causal(bsr(m, m, *variables("blocks"), block), window)
    kernel = build(spmm(fmt, m, m, 8, combine))
    i, j = np.indices((m, m))
    counts = (j <= i) & (i - j < window)
    for stored in (np.ones((m, m), np.float32), np.kron(np.tri(3, dtype=np.float32), np.ones((block, block)))):
        a = (normal(0, m, m) * stored).astype(np.float32)
        b = normal(1, m, 8)
        identity = 0 if combine == "sum" else np.finfo(np.float32).min
        want = getattr(np.where((counts & (stored != 0))[:, :, None], a[:, :, None] * b, identity), combine)(1)
        np.testing.assert_allclose(call(kernel, [*to_bsr(CSR.from_dense(a), block).params, b], (m, 8)), want, atol=1e-5)


def test_a_window_as_a_band_and_in_blocks_is_the_same():
    m, block, window = 12, 4, 3
    i, j = np.indices((m, m))
    a, b = np.where((j <= i) & (i - j < window), normal(2, m, m), 0).astype(np.float32), normal(3, m, 8)
    diagonals = np.zeros((m, window), np.float32)
    for shift in range(window):
        diagonals[window - 1 - shift :, shift] = np.diagonal(a, shift - window + 1)
    by_band = call(build(spmm(band(m, m, window - 1, 0), m, m, 8)), [diagonals, b], (m, 8))
    fmt = causal(bsr(m, m, *variables("blocks"), block), window)
    by_blocks = call(build(spmm(fmt, m, m, 8)), [*to_bsr(CSR.from_dense(a), block).params, b], (m, 8))
    np.testing.assert_allclose(by_band, by_blocks, atol=1e-6)
    np.testing.assert_allclose(by_band, a @ b, atol=1e-5)


def test_values_behind_the_mask_never_count():
    """NaN where the mask is: it is selected away, not multiplied."""
    m, block = 8, 4
    fmt = causal(bsr(m, m, *variables("blocks"), block), m)
    a, b = normal(4, m, m), normal(5, m, 8)
    hidden = np.where(np.tri(m, dtype=bool), a, np.nan).astype(np.float32)
    found = call(build(spmm(fmt, m, m, 8)), [*to_bsr(CSR.from_dense(hidden), block).params, b], (m, 8))
    np.testing.assert_allclose(found, np.tril(a) @ b, atol=1e-5)
    kept = elide_masks(spmm(fmt, m, m, 8), ())
    assert kept.steps[0].masked


def test_assigning_over_padding_is_refused():
    """Padding repeats a coordinate: what is written there would replace an entry."""
    m, n, rows = variables("m n rows")
    fmt = ell(m, n, rows, 3)
    i, j = coords("i j")
    a, d = Tensor("A", (m, n), fmt), Tensor("D", (m, n))
    it = Iteration("scatter", fmt, (i, j), {}, d[i, j], a[i, j])
    program = Program("scatter", (it,), (a, d), (*fmt.aux, a, d))
    with pytest.raises(SparseError, match="assigns D over padding"):
        lower(program)
    lower(dataclasses.replace(program, steps=(dataclasses.replace(it, combine="sum"),)))
