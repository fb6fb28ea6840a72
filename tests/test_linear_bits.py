"""A row's bits do not depend on the row class, the other rows, the target, or the number of threads."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tvm_ffi

from heddle.schedules import epilogue as epilogues
from heddle.schedules.catalog import activation, gated, layer_norm, linear, pack_rows, rms_norm, row_tile, scale
from heddle.schedules.compat import PrimFunc, tvm
from heddle.schedules.cpu.norm import Norm
from heddle.schedules.cpu.reference import narrow, widen
from heddle.schedules.layouts import tile32
from heddle.schedules.target import TargetProfile
from tests.cpu_targets import TARGETS

ROWS = 29  # more than two register tiles, and a last tile that is not full
LAYERS = [
    ("float32", ()),
    ("float16", ("bias",)),
    ("bfloat16", ("residual",)),
    ("float16", ("bias", "residual")),
    ("float32", ("gated:silu",)),
    ("float16", ("gated:silu",)),
    ("bfloat16", ("bias", "gated:silu")),
    ("bfloat16", ("bias", "gelu", "scale:0.22", "residual")),
    ("float32", ("gated:silu", "residual")),
]


@functools.cache
def compiled(func: PrimFunc, target: TargetProfile) -> Callable[..., None]:
    return tvm.compile(func.with_attr("global_symbol", "main"), target=target.tvm_target())["main"]


def call(func: PrimFunc, target: TargetProfile, arrays: list[np.ndarray], out: tuple[int, ...]) -> np.ndarray:
    y = tvm.runtime.tensor(np.full(out, np.nan, np.float32))
    compiled(func, target)(*[tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays], y)
    return y.numpy()


class Layer:
    """One random linear layer, run through any row class."""

    def __init__(self, k: int, n: int, dtype: str, epilogue: tuple[str, ...], rows: int = ROWS) -> None:
        rng = np.random.default_rng(k * n)
        parts = epilogues.parts(epilogue)
        self.params = {"in_features": k, "out_features": n, "weight_dtype": dtype, "epilogue": epilogue}
        self.k, self.n = k, n
        self.x = rng.standard_normal((rows, k), dtype=np.float32)
        self.w = narrow(rng.standard_normal((parts * n, k), dtype=np.float32), dtype)
        self.packed = tile32.pack(self.w, parts)
        self.bias = rng.standard_normal(parts * n, dtype=np.float32)
        self.residual = rng.standard_normal((rows, n), dtype=np.float32)

    def operands(self, rows: slice) -> list[np.ndarray]:
        epilogue = self.params["epilogue"]
        parts = epilogues.parts(epilogue)
        bias = [tile32.pad_vector(self.bias, parts)] if "bias" in epilogue else []
        return bias + ([self.residual[rows]] if "residual" in epilogue else [])

    def run(self, rows: str, target: TargetProfile, part: slice = slice(None)) -> np.ndarray:
        """y of the rows in `part`, all in one call."""
        x = self.x[part]
        shape = (len(x), self.n)
        if rows == "n":
            mr = row_tile(target)
            pack = pack_rows(features=self.k, norm=None, target=target)
            x = call(pack, target, [x], (-(-len(x) // mr), self.k, mr))
        func = linear(rows=rows, target=target, **self.params)
        return call(func, target, [x, self.packed, *self.operands(part)], shape)

    def one_by_one(self, target: TargetProfile) -> np.ndarray:
        return np.concatenate([self.run("1", target, slice(i, i + 1)) for i in range(len(self.x))])


def assert_same_bits(got: np.ndarray, want: np.ndarray) -> None:
    assert np.isfinite(want).all()
    differing = np.flatnonzero(got.view(np.uint32) != want.view(np.uint32))
    assert not differing.size, f"{differing.size} of {want.size} values differ, first at {differing[0]}"


@pytest.mark.parametrize(("dtype", "epilogue"), LAYERS, ids=lambda v: v if isinstance(v, str) else "+".join(v))
def test_row_classes_and_targets_agree(dtype: str, epilogue: tuple[str, ...]) -> None:
    layer = Layer(67, 109, dtype, epilogue)
    want = layer.one_by_one(TARGETS[0])
    for target in TARGETS:
        for rows in ("4", "8", "n"):
            assert_same_bits(layer.run(rows, target), want)
        assert_same_bits(layer.one_by_one(target), want)


@pytest.mark.parametrize(("k", "n"), [(1, 1), (5, 31), (16, 32), (33, 300)])
def test_odd_shapes_agree(k: int, n: int) -> None:
    layer = Layer(k, n, "float16", ("residual",), rows=13)
    want = layer.one_by_one(TARGETS[0])
    for target in TARGETS:
        for rows in ("4", "8", "n"):
            for part in (slice(0, 13), slice(2, 3), slice(4, 11)):
                assert_same_bits(layer.run(rows, target, part), want[part])


@pytest.mark.parametrize("epilogue", [("residual",), ("gated:silu",)], ids="+".join)
def test_blocks_of_k_keep_the_chain(epilogue: tuple[str, ...]) -> None:
    """K large enough that the many-row kernel carries its sums through memory, over more rows than one task holds."""
    layer = Layer(4500, 40, "bfloat16", epilogue, rows=200)
    for target in TARGETS:
        assert_same_bits(layer.run("n", target), layer.run("8", TARGETS[0]))


def test_the_chain_is_the_contract() -> None:
    """Each output is fmaf over ascending k from +0, by libm's fmaf: the order that docs/numerics.md promises."""
    fmaf = ctypes.CDLL("libm.so.6").fmaf
    fmaf.restype, fmaf.argtypes = ctypes.c_float, [ctypes.c_float] * 3
    layer = Layer(41, 35, "float16", ("bias", "residual"), rows=2)
    w = widen(layer.w, "float16")
    want = np.empty((2, 35), np.float32)
    for m, n in np.ndindex(2, 35):
        total = 0.0
        for k in range(41):
            total = fmaf(w[n, k], layer.x[m, k], total)
        want[m, n] = (np.float32(total) + layer.bias[n]) + layer.residual[m, n]
    for target in TARGETS:
        assert_same_bits(layer.one_by_one(target), want)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    configure = tvm_ffi.get_global_func("runtime.config_threadpool")
    before = tvm_ffi.get_global_func("runtime.NumThreads")()
    yield lambda n: configure(1, n)
    configure(1, before)


def test_thread_count_does_not_matter(set_threads: Callable[[int], None]) -> None:
    layer = Layer(67, 400, "float16", ("gated:silu",))
    target = TARGETS[-1]
    set_threads(1)
    want = layer.one_by_one(target)
    for threads in (1, 2, 3):
        set_threads(threads)
        for rows in ("4", "8", "n"):
            assert_same_bits(layer.run(rows, target), want)


@pytest.mark.parametrize("kind", ["silu", "gelu"])
def test_unfused_gates_have_the_same_bits(kind: str) -> None:
    fused = Layer(50, 45, "float16", (f"gated:{kind}",))
    plain = Layer(50, 90, "float16", ())
    plain.x, plain.w, plain.packed = fused.x, fused.w, tile32.pack(fused.w)
    for target in TARGETS:
        y = plain.run("n", target)
        unfused = call(gated(features=45, kind=kind, target=target), target, [y[:, :45], y[:, 45:]], (ROWS, 45))
        assert_same_bits(unfused, fused.run("8", target))


@pytest.mark.parametrize(
    ("item", "kernel", "params"),
    [
        ("relu2", activation, {"kind": "relu2"}),
        ("gelu_tanh", activation, {"kind": "gelu_tanh"}),
        ("scale:0.22", scale, {"factor": 0.22}),
    ],
)
def test_unfused_functions_have_the_same_bits(item: str, kernel: Callable[..., PrimFunc], params: dict) -> None:
    fused, plain = Layer(50, 45, "float16", ("bias", item)), Layer(50, 45, "float16", ("bias",))
    for target in TARGETS:
        unfused = call(kernel(features=45, target=target, **params), target, [plain.run("n", target)], (ROWS, 45))
        assert_same_bits(unfused, fused.run("8", target))


@pytest.mark.parametrize(("kind", "bias"), [("rms", False), ("layer", False), ("layer", True)])
def test_packing_with_a_norm_has_the_bits_of_the_norm(kind: str, bias: bool) -> None:
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(size, dtype=np.float32) for size in ((ROWS, 77), 77, 77)[: 3 if bias else 2]]
    params = {"features": 77, "eps": 1e-6} | ({"bias": bias} if kind == "layer" else {})
    norm = {"rms": rms_norm, "layer": layer_norm}[kind]
    want = call(norm(target=TARGETS[0], **params), TARGETS[0], arrays, (ROWS, 77))
    for target in TARGETS:
        mr = row_tile(target)
        pack = pack_rows(features=77, norm=Norm(kind, 77, 1e-6, bias), target=target)
        packed = call(pack, target, arrays, (-(-ROWS // mr), 77, mr))
        assert_same_bits(np.ascontiguousarray(packed.transpose(0, 2, 1)).reshape(-1, 77)[:ROWS], want)
        assert_same_bits(call(norm(target=target, **params), target, arrays, (ROWS, 77)), want)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": "2"}, "choose one of 1, 4, 8, n"),
        ({"weight_dtype": "int8"}, "choose one of float32, float16, bfloat16"),
        ({"epilogue": ("residual", "bias")}, "no linear kernel with the epilogue"),
        ({"out_features": 0}, "at least one channel"),
    ],
)
def test_unknown_parameters_are_named(change: dict[str, object], words: str) -> None:
    params = {"rows": "1", "in_features": 8, "out_features": 8, "weight_dtype": "float32", "epilogue": ()}
    with pytest.raises(ValueError, match=words):
        linear(target=TARGETS[0], **{**params, **change})
