"""Elide masks: validity is not computed where it makes no difference."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.ir_passes.passes import PassLog
from heddle.ir_passes.sparse.axes import DenseFixed, index
from heddle.ir_passes.sparse.format import Format
from heddle.ir_passes.sparse.formats import CSR, band, ell, to_ell
from heddle.ir_passes.sparse.iteration import Iteration, Program, coords
from heddle.ir_passes.sparse.rewrites.elide_masks import always_valid, elide_masks
from heddle.ir_passes.sparse.rewrites.fuse_rows import fuse_rows
from heddle.ir_passes.sparse.tensor import Tensor
from heddle.schedules.compat import T
from tests.sparse.rewrite_programs import STEPS, assert_same_lowering, attention, normal, spmm, variables
from tests.sparse.tools import build, call, random_matrix


def over_ell(combine="sum", **options):
    m, n, rows, width = variables("m n rows width")
    return spmm(ell(m, n, rows, width), m, n, 8, combine, **options)


def test_expected_where_stored_padding_is_zero():
    log = PassLog()
    assert_same_lowering(elide_masks(over_ell(), ["A"], log), over_ell(masked=False))
    assert [(r.site, r.matched) for r in log.records] == [("spmm", True)]


def test_expected_where_the_levels_say_so():
    """A band of its diagonal alone cannot leave a square matrix, and tiles of a multiple have no tail."""
    (m,) = variables("m")
    assert always_valid(band(m, m, 0, 0))
    assert not always_valid(band(m, m, 1, 0))
    assert not always_valid(band(m, m - 1, 0, 0))
    tiles = Format(
        "tiles",
        (DenseFixed("O", 6), DenseFixed("I", 4)),
        lambda o, i: (o.coord * 4 + i.coord,),
        lambda o, i: T.And(o.rel * 4 + i.coord < index(24), o.pos < 6),
    )
    assert always_valid(tiles)
    fmt = band(m, m, 0, 0)
    found = elide_masks(spmm(fmt, m, m, 8, "max"))
    assert not found.steps[0].masked


@pytest.mark.parametrize(
    ("combine", "zero", "reason"),
    [
        ("sum", [], "no factor of the value is known to be 0 on padding"),
        ("sum", ["B"], "no factor of the value is known to be 0 on padding"),
        ("max", ["A"], "the identity of max is not 0"),
        (None, ["A"], "it assigns: padding would write a value"),
    ],
)
def test_must_not_fire(combine, zero, reason):
    log, program = PassLog(), over_ell(combine)
    found = elide_masks(program, zero, log)
    assert found.steps[0].masked
    assert [(r.site, r.reason) for r in log.records] == [("spmm", reason)]


def test_must_not_fire_where_padding_is_not_zero_any_more():
    """exp(0) is not 0: what an unmasked step leaves on padding decides about the steps behind it."""
    m, n, rows, width = variables("m n rows width")
    program = fuse_rows(attention(ell(m, n, rows, width), (m, n)), STEPS)
    found = {it.name: it.masked for it in elide_masks(program).iterations()}
    # weight is masked and stores 0, so that total and mix need no mask; the others do.
    assert [name for name, masked in found.items() if not masked] == ["total", "mix"]


def test_written_values_count_as_zero_only_after_a_masked_step():
    m, n, rows, width = variables("m n rows width")
    fmt = ell(m, n, rows, width)
    i, j = coords("i j")
    a, r = Tensor("A", (m, n), fmt), Tensor("R", (m,))
    for masked in (True, False):
        steps = (
            Iteration("fill", fmt, (i, j), {}, a[i, j], a[i, j] + 1.0, masked=masked),
            Iteration("sum", fmt, (i, j), {}, r[i], a[i, j], "sum"),
        )
        found = elide_masks(Program("p", steps, (a, r), (*fmt.aux, a, r)), ["A"])
        assert found.steps[1].masked is not masked


def test_numeric():
    """Bits are the same, with rows of any length, empty ones among them, and no rows at all."""
    before, after = build(over_ell()), build(elide_masks(over_ell(), ["A"]))
    rng = np.random.default_rng(0)
    for a in (random_matrix(rng, 20, 15, 0.3, "rows"), CSR.from_dense(np.zeros((4, 3), np.float32))):
        inputs = [*to_ell(a).params, normal(1, a.shape[1], 8)]
        found = call(after, inputs, (a.shape[0], 8))
        np.testing.assert_array_equal(found, call(before, inputs, (a.shape[0], 8)))
        np.testing.assert_allclose(found, a.to_dense() @ inputs[-1], atol=1e-5)
