"""Split a sum: one iteration for each sparse operand."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.ir_passes.sparse.errors import SparseError
from heddle.ir_passes.sparse.formats import CSR, csc, csr, to_csc, to_csr
from heddle.ir_passes.sparse.iteration import Iteration, Program, coords
from heddle.ir_passes.sparse.lowering import lower
from heddle.ir_passes.sparse.rewrites.split_sum import split_sum
from heddle.ir_passes.sparse.tensor import Tensor
from tests.sparse.rewrite_programs import assert_same_lowering, normal, variables
from tests.sparse.tools import build, call, random_matrix


def operands():
    m, n, p, q = variables("m n p q")
    f, g = csr(m, n, p), csc(m, n, q)
    tensors = Tensor("A", (m, n), f), Tensor("B", (m, n), g), Tensor("X", (n, 8)), Tensor("C", (m, 8))
    return f, g, tensors, (*f.aux, tensors[0], *g.aux, *tensors[1:])


def before(combine="sum", value=lambda a, b, x: (a - 2.0 * b) * x):
    f, _g, (a, b, x, c), params = operands()
    i, j, k = coords("i j k")
    it = Iteration("add", f, (i, j), {k: 8}, c[i, k], value(a[i, j], b[i, j], x[j, k]), combine)
    return Program("add", (it,), (a, b, x, c), params)


def test_expected():
    program = before(value=lambda a, b, x: a * x + b * x)
    f, g = program.formats()
    a, b, x, c = program.tensors
    i, j, k = coords("i j k")
    steps = (
        Iteration("add_A", f, (i, j), {k: 8}, c[i, k], a[i, j] * x[j, k], "sum"),
        Iteration("add_B", g, (i, j), {k: 8}, c[i, k], b[i, j] * x[j, k], "sum", accumulate=True),
    )
    expected = Program("add", steps, program.tensors, program.params)
    assert_same_lowering(split_sum(program, "add"), expected)


def test_the_sum_is_refused_as_it_stands_and_the_error_names_the_rewrite():
    with pytest.raises(SparseError, match=r"rewrites\.split_sum"):
        lower(before())


@pytest.mark.parametrize(
    ("combine", "value", "message"),
    [
        ("max", lambda a, b, x: a + b, "the max of a sum is not"),
        ("sum", lambda a, b, x: a + x, "no sparse operand makes 0"),
        ("sum", lambda a, b, x: a * x, "there is nothing to split"),
        (None, lambda a, b, x: a + b, "assigns .* several times"),
    ],
)
def test_must_not_fire(combine, value, message):
    with pytest.raises(SparseError, match=message):
        split_sum(before(combine, value), "add")


def test_must_not_fire_into_a_format():
    f, _g, (a, b, _x, _c), params = operands()
    y = Tensor("Y", a.shape, f)
    i, j = coords("i j")
    program = Program("add", (Iteration("add", f, (i, j), {}, y[i, j], a[i, j] + b[i, j]),), (a, b, y), (*params, y))
    with pytest.raises(SparseError, match="writes Y, stored in csr"):
        split_sum(program, "add")


def pairs():
    rng = np.random.default_rng(0)
    yield random_matrix(rng, 13, 11, 0.3), random_matrix(rng, 13, 11, 0.2, "rows")
    yield CSR.from_dense(np.zeros((3, 4), np.float32)), random_matrix(rng, 3, 4, 0.5)
    yield random_matrix(rng, 3, 4, 0.5), CSR.from_dense(np.zeros((3, 4), np.float32))


def test_numeric():
    kernel = build(split_sum(before(), "add"))
    for a, b in pairs():
        x = normal(1, a.shape[1], 8)
        found = call(kernel, [*to_csr(a).params, *to_csc(b).params, x], (a.shape[0], 8))
        np.testing.assert_allclose(found, (a.to_dense() - 2 * b.to_dense()) @ x, atol=1e-5)


def test_numeric_dense_walk_and_assignment():
    """C = A + B over all coordinates: every element is filled, then gets what is stored."""
    f, g, (a, b, _x, _c), _ = operands()
    out = Tensor("D", a.shape)
    i, j = coords("i j")
    it = Iteration("add", None, (), {i: a.shape[0], j: a.shape[1]}, out[i, j], a[i, j] + b[i, j])
    program = Program("add", (it,), (a, b, out), (*f.aux, a, *g.aux, b, out))
    kernel = build(split_sum(program, "add"))
    for left, right in pairs():
        found = call(kernel, [*to_csr(left).params, *to_csc(right).params], left.shape)
        np.testing.assert_allclose(found, left.to_dense() + right.to_dense(), atol=1e-6)


def test_numeric_a_matrix_plus_its_transpose():
    m, nnz = variables("m nnz")
    f = csr(m, m, nnz)
    a, out = Tensor("A", (m, m), f), Tensor("D", (m, m))
    i, j = coords("i j")
    it = Iteration("sym", f, (i, j), {}, out[i, j], a[i, j] + a[j, i], "sum")
    found = split_sum(Program("sym", (it,), (a, out), (*f.aux, a, out)), "sym")
    assert [step.name for step in found.steps] == ["sym_A0", "sym_A1"]
    matrix = random_matrix(np.random.default_rng(2), 9, 9, 0.3)
    want = matrix.to_dense() + matrix.to_dense().T
    np.testing.assert_allclose(call(build(found), to_csr(matrix).params, (9, 9)), want, atol=1e-6)
