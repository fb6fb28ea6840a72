"""Programs that are wrong: each check of the lowering, once."""

from __future__ import annotations

import dataclasses

import pytest

from heddle.ir_passes.sparse.errors import SparseError
from heddle.ir_passes.sparse.formats import csr
from heddle.ir_passes.sparse.iteration import Fused, Iteration, Program, coords
from heddle.ir_passes.sparse.lowering import lower
from heddle.ir_passes.sparse.tensor import Tensor
from tests.sparse.rewrite_programs import variables


class Parts:
    """A program that is right, C[i, k] = sum of A[i, j] * B[j, k], and its parts to put wrong ones from."""

    def __init__(self) -> None:
        self.m, self.n, nnz = variables("m n nnz")
        self.fmt = csr(self.m, self.n, nnz)
        self.other = csr(self.m, self.n, *variables("p"), "other")
        self.i, self.j = coords("i j")
        self.k = coords("k")
        self.a = Tensor("A", (self.m, self.n), self.fmt)
        self.b, self.c = Tensor("B", (self.n, 8)), Tensor("C", (self.m, 8))
        self.local = Tensor("local", (8,), row_local=True)
        self.it = Iteration(
            "spmm",
            self.fmt,
            (self.i, self.j),
            {self.k: 8},
            self.c[self.i, self.k],
            self.a[self.i, self.j] * self.b[self.j, self.k],
            "sum",
        )

    def program(self, *steps, tensors=(), without=(), **changes) -> Program:
        """The program with the iteration changed, or other steps; `tensors` are added, and `without` left out."""
        steps = steps or (dataclasses.replace(self.it, **changes),)
        own = (self.a, self.b, self.c, *tensors)
        fmts = [self.fmt, *(t.fmt for t in tensors if t.fmt not in (None, self.fmt))]
        params = (*(b for fmt in fmts for b in fmt.aux), *(t for t in own if not t.row_local))
        return Program(
            "p", steps, tuple(t for t in own if t not in without), tuple(p for p in params if p not in without)
        )


def names(p):
    return p.program(p.it, p.it)


def too_few_dimensions(p):
    return p.program(tensors=[Tensor("T", (p.m,), p.fmt)])


def wrong_length(p):
    return p.program(tensors=[Tensor("T", (p.m, p.n + 1), p.fmt)])


def not_determined(p):
    z = coords("z")
    return p.program(out=p.c[p.i, z])


def row_local_off_walk(p):
    inner = Tensor("inner", (p.m, p.n), p.fmt, row_local=16)
    first = Iteration("first", p.fmt, (p.i, p.j), {}, inner[p.i, p.j], p.a[p.i, p.j])
    square = dataclasses.replace(p.it, value=p.a[p.i, p.j] * inner[p.j, p.i])
    return p.program(Fused(1, (first, square)), tensors=[inner])


def row_local_unwritten(p):
    return p.program(value=p.a[p.i, p.j] * p.local[p.k], tensors=[p.local])


def written_at_data(p):
    ids = Tensor("ids", (p.n,), dtype="int64")
    return p.program(out=p.c[ids[p.j], p.k], tensors=[ids])


def two_fills(p):
    twice = dataclasses.replace(p.it, name="again")
    scatter = [dataclasses.replace(it, out=p.b[p.j, p.k], value=p.a[p.i, p.j] * p.c[p.i, p.k]) for it in (p.it, twice)]
    return p.program(Fused(1, tuple(scatter)))


def no_length(p):
    total = Tensor("total", (8,))
    it = Iteration("all", p.fmt, (p.i, p.j), {p.k: 8}, total[p.k], p.a[p.i, p.j] * 1.0, "sum")
    return Program("p", (it,), (p.a, total), (*p.fmt.aux, p.a, total))


CASES = {
    "several iterations named spmm": names,
    "tensor T has 1 dimensions, its format csr has 2": too_few_dimensions,
    "tensor T is .* long in dimension 1": wrong_length,
    "unknown combination 'mean'": lambda p: p.program(combine="mean"),
    "writes C, which is no tensor": lambda p: p.program(without=[p.c]),
    "names 1 coordinates, its format csr has 2": lambda p: p.program(
        coords=(p.i,), value=p.b[p.i, p.k], out=p.c[p.i, p.k]
    ),
    "names coordinates but walks no format": lambda p: p.program(walk=None),
    "writes a value of float64 to C, which is float32": lambda p: p.program(value=p.b[p.j, p.k].astype("float64")),
    "has two axes named I": lambda p: p.program(free={p.k: 8, coords("I"): 2}),
    "unknown axis 'z' in the order": lambda p: p.program(order=("I", "J", "k", "z")),
    "axis 'I' stands twice in the order": lambda p: p.program(order=("I", "J", "k", "I")),
    "the order lacks k": lambda p: p.program(order=("I", "J")),
    "the order has J before I": lambda p: p.program(order=("J", "I", "k")),
    "to begin its elements": lambda p: p.program(begins=True, order=("I", "J", "|", "k")),
    "walk different formats": lambda p: p.program(
        Fused(1, (p.it, dataclasses.replace(p.it, name="other", walk=p.other, value=p.b[p.j, p.k])))
    ),
    "share 3 levels of 2": lambda p: p.program(Fused(3, (p.it,))),
    "uses the row-local tensor local where": row_local_unwritten,
    "tensor B is no parameter": lambda p: dataclasses.replace(
        p.program(), params=tuple(x for x in p.program().params if x is not p.b)
    ),
    "array csr_J_indptr of format csr is no parameter": lambda p: p.program(without=[p.fmt.aux[0]]),
    "reads B, which is no tensor": lambda p: p.program(without=[p.b]),
    "writes A, stored in csr, where its walk does not stand": lambda p: p.program(
        out=p.a[p.j, p.i], free={}, value=p.b[p.j, p.i]
    ),
    "at a coordinate that it reads from ids": written_at_data,
    "nothing determines z": not_determined,
    "reads the row-local inner off its walk": row_local_off_walk,
    "uses the coordinate j, which needs level J": lambda p: p.program(depth=1),
    "accesses an entry of csr, but does not walk all of its levels": lambda p: p.program(
        depth=1, out=p.c[p.i, p.k], value=p.a[p.i, p.i] * 1.0
    ),
    "which has to be filled first": two_fills,
    "nothing that p is called with has m as a length": no_length,
}


@pytest.mark.parametrize("message", CASES)
def test_what_is_wrong_is_said(message: str) -> None:
    parts = Parts()
    with pytest.raises(SparseError, match=message):
        lower(CASES[message](parts))


def test_what_is_right_lowers() -> None:
    lower(Parts().program())


def test_a_tensor_is_indexed_with_all_coordinates() -> None:
    parts = Parts()
    with pytest.raises(SparseError, match="A is indexed with 1 coordinates, it has 2 dimensions"):
        parts.a[parts.i]


def test_errors_say_why_and_how() -> None:
    parts = Parts()
    with pytest.raises(SparseError) as error:
        lower(parts.program(order=("J", "I", "k")))
    assert "why: how many entries J has depends on where the walk stands on I" in str(error.value)
    assert "fix: put I first" in str(error.value)
