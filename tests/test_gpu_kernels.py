"""Lanes as threads: CUDA and WGSL source of the kernels, and CUDA source that runs here as threads of a block."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import heddle.ir_passes.sparse.catalog
import heddle.schedules.catalog  # noqa: F401
from heddle.compiler.driver import compile_model
from heddle.runtime.errors import HeddleError
from heddle.schedules.block_threads import Device
from heddle.schedules.compat import T, finish, tvm, tvm_ffi
from heddle.schedules.cpu.linear_spec import prefetch
from heddle.schedules.emit import buffer, evaluate, let, local, parallel, prim_func, serial, settle, store, when
from heddle.schedules.lanes_to_loops import lanes_to_loops
from heddle.schedules.loops_to_threads import loops_to_threads
from heddle.schedules.registry import KERNELS
from heddle.schedules.target import PROFILES, SIMT
from heddle.schedules.vector import lanes
from heddle.schedules.words import in_words
from tests.conftest import ROOT
from tests.gpu_tools import Point, built, device_source, on_fibers, points, results
from tests.test_kernels import largest_error

CUDA, WEBGPU = PROFILES["cuda-sm90"], PROFILES["webgpu"]
NAMES = {"llvm.fma": "fmaf", "llvm.nearbyint": "nearbyintf"}
SOME = ("rms_norm", "quant_pack", "quant_linear_rows", "sample_tokens")

NOT_IN_WGSL = {
    "sample_tokens": "table is of int64, and there are no 64-bit integers",
    "rank_tokens": "wanted is of int64, and there are no 64-bit integers",
    "edit_logits": "table is of int64, and there are no 64-bit integers",
    "mask_logits": "rows is of int64, and there are no 64-bit integers",
}
"""Kernels that a browser runs on its CPU. Caches of less than a word an element, and tiles of two-level scales, are refused too."""
NOT_IN_WGSL_CASES = {
    "kv_append": "cache is written in elements of uint",
    "key_append": "cache is written in elements of uint",
    "qkv_append": "cache is written in elements of uint",
    "quant_linear_tiles": "the array of a thread at most",
}


@pytest.fixture(scope="module")
def cuda() -> Iterator[Any]:
    """A CUDA device whose memory is this machine's."""
    name = "device_api.cuda"
    assert tvm.get_global_func(name, allow_missing=True) is None, "the CUDA runtime is loaded: its device is not ours"
    tvm_ffi.register_global_func(name, tvm.get_global_func("device_api.cpu"))
    yield tvm.cuda(0)
    tvm_ffi.get_global_func("ffi.FunctionRemoveGlobal")(name)


def agree(some: Sequence[Point], folder: Path, cuda: Any) -> None:
    """Kernels on fibers against their references, in both orders of the threads."""
    module = built(some, CUDA)
    fibers = on_fibers(module, folder)
    for point in some:
        name, kernel, case = point
        found, wanted = results(module[name], point, cuda)
        assert max(map(largest_error, found, wanted)) <= (case.tolerance or kernel.tolerance).relative, name
        fibers["backwards"](1)
        again, _ = results(module[name], point, cuda)
        fibers["backwards"](0)
        assert [a.tobytes() for a in found] == [a.tobytes() for a in again], (
            f"{name} depends on the order of its threads"
        )
        assert fibers["diverged"]() == 0, f"threads of {name} wait at different barriers"


def test_kernels_on_threads(tmp_path: Path, cuda: Any) -> None:
    agree(points(SOME), tmp_path, cuda)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_on_threads(name: str, tmp_path: Path, cuda: Any) -> None:
    agree([point for point in points() if point[1].name == name], tmp_path, cuda)


def test_every_factory_emits_cuda() -> None:
    for point in points(list(KERNELS)):
        source = device_source(built([point], CUDA))
        assert "__global__" in source, point[0]
        assert "threadIdx.x" in source, point[0]


def wgsl(point: Point) -> str:
    """WGSL source, or why there is none."""
    try:
        return device_source(built([point], WEBGPU))
    except ValueError as error:
        return str(error)


def judge(point: Point) -> bool:
    """Whether a case is WGSL; a case that is not says why."""
    name, kernel, _ = point
    source = wgsl(point)
    if "@compute" not in source:
        reason = NOT_IN_WGSL.get(kernel.name) or NOT_IN_WGSL_CASES.get(kernel.name)
        assert reason, f"{name}: {source}"
        assert reason in source
        return False
    assert kernel.name not in NOT_IN_WGSL
    assert not re.search(r"\b[iu](8|16|64)\b", source), f"{name} has types that WGSL lacks"
    for text in source.split("// Function: ")[1:]:
        assert text.count("var<storage") <= 10, f"{name} takes more tensors than WebGPU binds"
    return True


def test_every_factory_emits_wgsl() -> None:
    emitted = {point[1].name for point in points(list(KERNELS)) if judge(point)}
    assert emitted == set(KERNELS) - set(NOT_IN_WGSL)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_every_case_emits_source(name: str) -> None:
    for point in points():
        if point[1].name == name:
            for profile in (p for p in PROFILES.values() if p.kind == "cuda"):
                assert "__global__" in device_source(built([point], profile))
            judge(point)


# ------------------------------------------------------------------------------------------------ how a block is made


def threads(body: Callable[[Any, Any], None], device: Device = Device(48 << 10, 1 << 16)) -> str:  # noqa: B008
    """The script of a small kernel y[16] of x[16] for a GPU."""
    x, y = buffer("x", (16,), "float32"), buffer("y", (16,), "float32")
    with prim_func([x, y]) as made, parallel(1, "i"):
        body(x, y)
    return str(loops_to_threads(lanes_to_loops(finish(made[0]), NAMES), device))


def test_lanes_that_keep_to_themselves_are_in_registers() -> None:
    def body(x: Any, y: Any) -> None:
        sums = local("sums", (2, 16))
        for row in range(2):
            store(sums, (row, lanes(0)), x[lanes(0)] + x[lanes(0)])
        store(y, lanes(0), sums[0, lanes(0)] * sums[1, lanes(0)])

    script = threads(body)
    assert "sums_ = T.alloc_local((2, 1)" in script
    assert "storage_sync" not in script


def test_lanes_that_meet_do_so_in_shared_memory_between_barriers() -> None:
    def body(x: Any, y: Any) -> None:
        sums = local("sums", (16,))
        store(sums, lanes(0), x[lanes(0)])
        store(y, 0, sums[0] + sums[1])

    script = threads(body)
    assert "sums_ = T.alloc_shared((16,)" in script
    before, store_, after = script.partition("sums_[t] = ")
    assert store_
    assert before.count("T.tvm_storage_sync") == after.count("T.tvm_storage_sync") == 1
    assert re.search(r"if t == 0:\n\s+y\[0\] = ", script), "one thread stores a scalar"


def test_what_is_alike_in_all_threads_stays_in_each() -> None:
    def body(x: Any, y: Any) -> None:
        total = local("total", (1,))
        store(total, 0, T.float32(0))
        with serial(16, "j") as j:
            store(total, 0, total[0] + x[j])
        store(y, lanes(0), T.broadcast(total[0], 16))

    script = threads(body)
    assert "total_ = T.alloc_local((1,)" in script
    assert "storage_sync" not in script


def uncertain(x: Any, y: Any) -> None:
    """Lanes meet under a condition that the kernel has computed."""
    sums = local("sums", (16,))
    store(sums, lanes(0), x[lanes(0)])
    with when(let("first", sums[0]) > T.float32(0)):
        store(sums, lanes(0), x[lanes(0)] * x[lanes(0)])
    store(y, 0, sums[1])


def test_one_thread_does_it_where_it_is_not_plain_that_all_meet() -> None:
    assert 'T.thread_binding(16, thread="threadIdx.x")' in threads(uncertain)
    alone = threads(uncertain, Device(48 << 10, 1 << 16, plainly=True))
    assert 'T.thread_binding(1, thread="threadIdx.x")' in alone
    assert "storage_sync" not in alone


def test_calls_for_their_effect_are_refused_and_prefetches_go() -> None:
    def prefetching(x: Any, y: Any) -> None:
        evaluate(prefetch(T.address_of(x[0])))
        store(y, lanes(0), x[lanes(0)])

    def calling(x: Any, y: Any) -> None:
        evaluate(T.call_extern("int32", "log", y[0]))
        store(y, lanes(0), x[lanes(0)])

    assert "prefetch" not in threads(prefetching)
    with pytest.raises(ValueError, match="Evaluate has no form for the threads of a block"):
        threads(calling)


def test_arrays_that_fit_nowhere_are_refused() -> None:
    with pytest.raises(ValueError, match="sums_ has 64 bytes, the array of a thread at most 32"):
        threads(uncertain, Device(32, 32))


def test_words_extend_bytes_and_refuse_64_bits() -> None:
    x, y = buffer("x", (8, 16), "int8"), buffer("y", (16,), "float32")
    with prim_func([x, y]) as made:
        row = settle("row", T.cast(y[0], "int64"))
        store(y, lanes(0), T.cast(x[row, lanes(0)], "float32x16"))
    script = str(in_words(lanes_to_loops(finish(made[0]), NAMES)))
    assert 'x: T.Buffer((8, 4), "uint32")' in script or 'x: T.Buffer((T.int64(8), 4), "uint32")' in script
    assert "int64" not in script.replace("T.int64(8)", "")
    codes = buffer("codes", (16,), "float32")
    with prim_func([codes]) as made:
        store(codes, lanes(0), T.cast(T.cast(codes[lanes(0)], "int8x16"), "float32x16"))
    script = str(in_words(lanes_to_loops(finish(made[0]), NAMES)))
    assert 'T.Cast("uint32", T.Cast("int32", codes[' in script, "-1.0 has no uint32"
    wide = buffer("wide", (16,), "int64")
    with prim_func([wide]) as made:
        store(wide, 0, T.int64(1))
    with pytest.raises(ValueError, match="wide is of int64"):
        in_words(lanes_to_loops(finish(made[0]), NAMES))


@pytest.mark.parametrize("name", [p.name for p in PROFILES.values() if p.kernels == SIMT])
def test_models_are_not_compiled_for_gpus_yet(name: str, tmp_path: Path) -> None:
    with pytest.raises(HeddleError, match=f"models are not compiled for {name} yet") as caught:
        compile_model(ROOT / "examples" / "tinydoc", tmp_path / "x.heddle", target=name)
    assert "it has the kernels" in caught.value.why
    assert "x86-64-v3" in caught.value.fix
    assert name not in caught.value.fix
    assert not (tmp_path / "x.heddle").exists()
