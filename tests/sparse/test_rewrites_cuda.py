"""One program text on CPU and, as source, on CUDA; and the members of a decomposition in one launch."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.ir_passes.sparse.errors import SparseError
from heddle.ir_passes.sparse.formats import CSR, csr, hyb, to_csr, to_hyb
from heddle.ir_passes.sparse.iteration import Program
from heddle.ir_passes.sparse.lowering import decompose_inits, lower
from heddle.ir_passes.sparse.lowering.fuse_horizontal import fuse_horizontal
from heddle.ir_passes.sparse.lowering.kinds import PARALLEL, set_kinds
from heddle.ir_passes.sparse.rewrites.decompose import decompose
from heddle.schedules.compat import Target, s_tir, tvm
from tests.sparse.rewrite_programs import normal, spmm, variables
from tests.sparse.tools import build, call, random_matrix

GPU = {
    "kind": "cuda",
    "arch": "sm_80",
    "max_threads_per_block": 1024,
    "max_shared_memory_per_block": 49152,
    "thread_warp_size": 32,
}
WIDTH = 32


def over_csr():
    m, n, nnz = variables("m n nnz")
    return spmm(csr(m, n, nnz), m, n, WIDTH)


def over_hyb(parts=1):
    m, n, nnz = variables("m n nnz")
    return decompose(spmm(csr(m, n, nnz), m, n, WIDTH), "spmm", hyb(m, n, (2, 4), parts))


def rows_and_columns(program: Program, gpu: bool):
    """Each iteration's rows outermost and its columns around the reduction; on a GPU, these are blocks and threads."""
    sch = s_tir.Schedule(lower(program))
    for it in program.iterations():
        *_, above, last = sch.get_loops(sch.get_sblock(it.name))
        outer = above
        if it.walk is not None:
            sch.reorder(last, above)
            outer = sch.get_loops(sch.get_sblock(f"{it.name}_o0"))[0]
        if gpu:
            sch.bind(outer, "blockIdx.x")
            sch.bind(last, "threadIdx.x")
    return decompose_inits(sch).mod["main"]


def cuda_source(func) -> str:
    """The CUDA text of a function; the wheel has a code generator, and no compiler is asked."""
    target = Target(GPU, host="llvm")
    with target:
        executable = tvm.compile(tvm.IRModule({"main": func}), target=target)
    return executable.mod.imports[0].inspect_source()


def kernels(source: str) -> int:
    return sum("__global__" in line and line.rstrip().endswith("{") for line in source.splitlines())


def test_one_text_for_cpu_and_cuda():
    program = over_csr()
    source = cuda_source(rows_and_columns(program, gpu=True))
    assert kernels(source) == 1
    assert "blockIdx.x" in source
    assert "threadIdx.x" in source
    a, b = random_matrix(np.random.default_rng(0), 12, 9, 0.3), normal(1, 9, WIDTH)
    found = call(build(program), [*to_csr(a).params, b], (12, WIDTH))
    np.testing.assert_allclose(found, a.to_dense() @ b, atol=1e-5)


def test_members_in_one_launch():
    program = over_hyb()
    names = [it.name for it in program.iterations()]
    func = rows_and_columns(program, gpu=True)
    apart, together = cuda_source(func), cuda_source(fuse_horizontal(func, program, names[1:]))
    assert kernels(apart) == len(names)
    assert kernels(together) == 2, "the fill, and all members"
    assert "hyb0_rows2" in together
    assert "if (((int64_t)blockIdx.x) < hyb0_rows2)" in together


@pytest.mark.parametrize("parallel", [False, True])
def test_numeric_the_same_dispatch_on_cpu(parallel):
    program = over_hyb()
    names = [it.name for it in program.iterations()]
    func = fuse_horizontal(rows_and_columns(program, gpu=False), program, names[1:])
    sch = s_tir.Schedule(func)
    if parallel:
        sch = set_kinds(sch, {"task": PARALLEL})
    kernel = tvm.compile(sch.mod, target="llvm")["main"]
    rng = np.random.default_rng(2)
    for a in (random_matrix(rng, 21, 15, 0.2, "rows"), CSR.from_dense(np.zeros((4, 5), np.float32))):
        b = normal(3, a.shape[1], WIDTH)
        arrays = [x for member in to_hyb(a, (2, 4)) for x in member.params]
        np.testing.assert_allclose(call(kernel, [*arrays, b], (a.shape[0], WIDTH)), a.to_dense() @ b, atol=1e-5)


def test_members_that_would_race_are_refused():
    program = over_hyb(parts=2)
    names = [it.name for it in program.iterations()]
    with pytest.raises(SparseError, match="cannot run at the same time: both touch C"):
        fuse_horizontal(lower(program), program, names[1:])


def test_what_is_not_one_run_of_loops_is_refused():
    program = over_hyb()
    fill, first, second, tail = (it.name for it in program.iterations())
    func = rows_and_columns(program, gpu=True)
    with pytest.raises(SparseError, match="not consecutive loop nests"):
        fuse_horizontal(func, program, [first, tail])
    with pytest.raises(SparseError, match="has no iteration nothing"):
        fuse_horizontal(func, program, ["nothing"])
    with pytest.raises(SparseError, match="both touch C"):
        fuse_horizontal(func, program, [fill, first])
    sch = s_tir.Schedule(lower(program))
    sch.parallel(sch.get_loops(sch.get_sblock(f"{first}_o0"))[0])
    with pytest.raises(SparseError, match="of different kinds"):
        fuse_horizontal(sch.mod["main"], program, [first, second])
