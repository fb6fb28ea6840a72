"""Vectors as loops over lanes: what crosses lanes, what C spells, and kernels that give the bits of the vector profiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import heddle.ir_passes.sparse.catalog
import heddle.schedules.catalog  # noqa: F401
from heddle.compiler.driver import compile_model
from heddle.compiler.native.c_source import compile_c
from heddle.runtime.errors import HeddleError
from heddle.schedules.compat import PrimFunc, T, finish, ir, tirx, tvm
from heddle.schedules.emit import buffer, let, local, parallel, prim_func, serial, store
from heddle.schedules.lanes_to_loops import lanes_to_loops
from heddle.schedules.registry import KERNELS
from heddle.schedules.target import PROFILES, resolve_target
from heddle.schedules.vector import const, lanes
from tests.conftest import ROOT
from tests.cpu_targets import TARGETS
from tests.docs_tools import run_commands
from tests.gpu_tools import Point, points, primfunc, results
from tests.test_kernels import largest_error

C = PROFILES["c"]
NAMES = {"llvm.fma": "fmaf", "llvm.nearbyint": "nearbyintf"}
SOME = ("rms_norm", "pack_rows", "kv_append", "quant_pack", "quant_linear_rows")
CONTRACTED = ("spmm", "sddmm", "grouped_matmul")
"""Kernels that are not bound by the numerics contract: LLVM joins their products and sums where it likes."""


def library(functions: dict[str, PrimFunc], folder: Path) -> Any:
    """Functions without vectors, compiled by the system's C compiler."""
    module = tirx.build(tvm.IRModule(functions), target=C.tvm_target())
    path = folder / "kernels.so"
    module.export_library(str(path), fcompile=lambda *given, **more: compile_c("g++", *given, **more))
    return tvm.runtime.load_module(str(path))


def interleaved(x: Any, y: Any) -> None:
    a, b = x[lanes(0, 8)], x[lanes(8, 8)]
    store(y, lanes(0), T.call_llvm_pure_intrin("float32x16", "llvm.vector.interleave2", a, b))


def taken_apart(x: Any, y: Any) -> None:
    codes = local("codes", (64,), "uint8")
    store(codes, lanes(0, 64), T.reinterpret("uint8x64", x[lanes(0)]))
    store(y, lanes(0), T.cast(codes[lanes(5)], "float32x16"))


def put_together(x: Any, y: Any) -> None:
    codes = local("codes", (64,), "uint8")
    store(codes, lanes(0, 64), T.reinterpret("uint8x64", x[lanes(0)]))
    store(y, lanes(0), T.reinterpret("float32x16", codes[lanes(0, 64)]))


def halves(x: Any, y: Any) -> None:
    low, high = (ir.Call(ir.Op.get(f"tirx.vector{h}"), [x[lanes(0)]], ret_ty="float32x8") for h in ("low", "high"))
    store(y, lanes(0), ir.Call(ir.Op.get("tirx.vectorcombine"), [high, low], ret_ty="float32x16"))


def summed(x: Any, y: Any) -> None:
    total = T.call_llvm_pure_intrin("float32", "llvm.vector.reduce.fadd", T.float32(1e8), x[lanes(0)])
    store(y, lanes(0), T.broadcast(total, 16))


def any_positive(x: Any, y: Any) -> None:
    found = T.call_llvm_pure_intrin("bool", "llvm.vector.reduce.or", x[lanes(0)] > const(2.0))
    store(y, lanes(0), T.broadcast(T.Select(found, T.float32(1), T.float32(0)), 16))


def shifted_over_itself(x: Any, y: Any) -> None:
    store(y, lanes(0), x[lanes(0)])
    store(y, lanes(1, 8), y[lanes(0, 8)])  # every lane reads what the one before it writes


def spelled(x: Any, y: Any) -> None:
    half = let("half", x[lanes(0)] * const(1 / 120))  # a type of the source's, and a constant with nine digits
    with serial(16, "new") as new:
        store(y, new, T.max(T.float32(float("-inf")), x[new]))
    store(y, lanes(0), y[lanes(0)] + half)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Any]]:
    """The same small function with vectors, and with loops in C."""
    made: dict[str, PrimFunc] = {}
    for body in (interleaved, taken_apart, put_together, halves, summed, any_positive, shifted_over_itself, spelled):
        x, y = buffer("x", (16,), "float32", align=64), buffer("y", (16,), "float32", align=64)
        with prim_func([x, y]) as functions, parallel(1, "i"):
            body(x, y)
        made[body.__name__] = finish(functions[0]).with_attr("global_symbol", body.__name__)
    loops = library({name: lanes_to_loops(f, NAMES) for name, f in made.items()}, tmp_path_factory.mktemp("small"))
    vectors = tvm.compile(tvm.IRModule(made), target=TARGETS[0].tvm_target())
    return lambda name: (vectors[name], loops[name])


@pytest.mark.parametrize(
    "name",
    [
        *("interleaved", "taken_apart", "put_together", "halves", "summed", "any_positive"),
        *("shifted_over_itself", "spelled"),
    ],
)
def test_lanes_that_meet(pairs: Callable[[str], tuple[Any, Any]], name: str) -> None:
    x = np.random.default_rng(0).standard_normal(16, np.float32)
    found = []
    for function in pairs(name):
        y = tvm.runtime.tensor(np.full(16, 77, np.float32))
        function(tvm.runtime.tensor(x), y)
        found.append(y.numpy())
    assert found[0].tobytes() == found[1].tobytes()
    assert not np.array_equal(found[1], np.full(16, 77))


def test_what_has_no_scalar_form_is_named() -> None:
    x = buffer("x", (16,), "float32")
    with prim_func([x]) as made:
        store(x, lanes(0), T.call_llvm_pure_intrin("float32x16", "llvm.sqrt", x[lanes(0)]))
    with pytest.raises(ValueError, match=r"llvm\.sqrt has no form without vectors"):
        lanes_to_loops(finish(made[0]), NAMES)
    x = buffer("x", (16,), "float64")
    with prim_func([x]) as made:
        store(x, lanes(0), T.call_llvm_pure_intrin("float64x16", "llvm.nearbyint", x[lanes(0)]))
    with pytest.raises(ValueError, match=r"llvm\.nearbyint of float64 has no form without vectors"):
        lanes_to_loops(finish(made[0]), NAMES)


def agree(some: Sequence[Point], folder: Path) -> None:
    """Kernels in C against their references, and against the bits of a profile with vectors."""
    loops = library({point[0]: primfunc(point, C) for point in some}, folder)
    bound = {point[0]: primfunc(point, TARGETS[0]) for point in some if point[1].name not in CONTRACTED}
    vectors = tvm.compile(tvm.IRModule(bound), target=TARGETS[0].tvm_target()) if bound else None
    for point in some:
        name, kernel, case = point
        found, wanted = results(loops[name], point)
        tolerance = (case.tolerance or kernel.tolerance).relative
        assert max(map(largest_error, found, wanted)) <= tolerance, name
        if vectors is not None and name in bound:
            same, _ = results(vectors[name], point)
            assert [a.tobytes() for a in found] == [a.tobytes() for a in same], name


def test_kernels_in_c_have_the_bits_of_vectors(tmp_path: Path) -> None:
    agree(points(SOME), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_in_c(name: str, tmp_path: Path) -> None:
    agree([point for point in points() if point[1].name == name], tmp_path)


def test_sources_of_one_library(tmp_path: Path) -> None:
    """As a model's kernels are: a source each, all of which define what TVM gives every source."""
    sources, chosen = [], points(["add", "gather_rows"])
    for point in chosen:
        code = tirx.build(tvm.IRModule({point[0]: primfunc(point, C)}), target=C.tvm_target())
        sources.append(str(tmp_path / f"{point[0]}.c"))
        code.write_to_file(sources[-1])
    path = tmp_path / "both.so"
    code.export_library(
        str(path), fcompile=lambda *given, **more: compile_c("g++", *given, **more), addons=sources[:-1]
    )
    loaded = tvm.runtime.load_module(str(path))
    for point in chosen:
        found, wanted = results(loaded[point[0]], point)
        assert found[0].tobytes() == wanted[0].tobytes()


def test_native_is_never_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heddle.schedules.target.cpu_features", frozenset)
    with pytest.raises(ValueError, match="no target profile fits this"):
        resolve_target("native")
    assert resolve_target("c").missing_features(frozenset()) == []


def test_what_the_c_compiler_says(tmp_path: Path) -> None:
    (tmp_path / "bad.c").write_text("int f( { return 0; }\n")
    with pytest.raises(HeddleError, match=r"g\+\+ cannot compile the model's C source") as caught:
        compile_c("g++", str(tmp_path / "bad.so"), [str(tmp_path / "bad.c")])
    assert "error" in caught.value.why
    assert "set CXX to" in caught.value.fix


@pytest.mark.slow
@pytest.mark.parametrize(("quant", "kv_dtype"), [(None, None), ("w4a8", "int8")])
def test_a_model_in_c(tmp_path: Path, quant: str | None, kv_dtype: str | None) -> None:
    from heddle import LLM, SamplingParams

    names = [TARGETS[0].name, "c"]
    path = compile_model(
        ROOT / "examples" / "tinydoc", tmp_path / "both.heddle", target=names, quant=quant, kv_dtype=kv_dtype
    )
    prompts = ["A tensor is", "def main(", "Once upon a time", "# Heading\n\n", "The"]
    found = []
    for name in names:
        done = LLM(path, target=name).generate(prompts, SamplingParams(temperature=0, max_tokens=64, logprobs=2))
        found.append([(o.outputs[0].token_ids, str(o.outputs[0].logprobs)) for o in done])
    assert found[0] == found[1]


@pytest.mark.slow
def test_commands_of_the_page(tmp_path: Path) -> None:
    printed = run_commands("docs/targets/c.md", tmp_path)
    assert "target c (" in printed
