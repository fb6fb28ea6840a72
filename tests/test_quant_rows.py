"""Quantized linears for few rows: a row's bits are the same in every row class, on every target."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest

from heddle.schedules.compat import PrimFunc, tvm
from heddle.schedules.cpu import quant_linear_rows as ql
from heddle.schedules.cpu import quant_reference
from heddle.schedules.cpu.norm import Norm, rms_norm
from heddle.schedules.cpu.quant_pack import quant_pack
from heddle.schedules.cpu.quant_spec import QuantSpec
from heddle.schedules.layouts import tile16
from heddle.schedules.layouts.quantized import QuantizedMatrix
from heddle.schedules.layouts.scheme import scheme
from heddle.schedules.target import TargetProfile
from tests.cpu_targets import TARGETS

ROWS = 8
LAYERS = [
    # scheme, K, N, epilogue
    ("w4a8-g32", 96, 50, ("bias", "residual")),
    ("w4a8-g64-ag", 128, 70, ("residual",)),
    ("w4a8-2l-asym", 64, 24, ("gated:silu",)),
    ("w4a16-g32-asym", 64, 45, ("bias", "gated:silu")),
    ("w4a16-f32", 64, 33, ("residual",)),
    ("w4a8-g32-min", 96, 50, ("bias", "residual")),
    ("w8a8", 52, 61, ("bias",)),
    ("w8a16", 36, 20, ("gelu",)),
]


@functools.cache
def compiled(func: PrimFunc, target: TargetProfile) -> Callable[..., None]:
    return tvm.compile(func.with_attr("global_symbol", "main"), target=target.tvm_target())["main"]


def call(func: PrimFunc, target: TargetProfile, arrays: list[np.ndarray], *like: np.ndarray) -> list[np.ndarray]:
    """Outputs shaped as `like`."""
    outputs = [tvm.runtime.tensor(np.full_like(a, 77)) for a in like]
    compiled(func, target)(*[tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays], *outputs)
    return [out.numpy() for out in outputs]


class Layer:
    """One quantized linear layer and rows for it, run through any row class with the packing kernel before."""

    def __init__(self, name: str, k: int, n: int, epilogue: tuple[str, ...]) -> None:
        rng = np.random.default_rng(k * n)
        self.params = {"in_features": k, "out_features": n, "scheme": name, "epilogue": epilogue}
        self.spec: QuantSpec = ql.quant_spec(k, n, name, epilogue)
        channels = n * self.spec.parts
        self.x = rng.standard_normal((ROWS, k), dtype=np.float32)
        self.w: QuantizedMatrix = ql.random_matrix(rng, self.spec.weight, channels, k)
        self.bias = rng.standard_normal(channels, dtype=np.float32) if "bias" in epilogue else None
        self.residual = rng.standard_normal((ROWS, n), dtype=np.float32) if "residual" in epilogue else None

    def packed(self, x: np.ndarray, rows: int, target: TargetProfile) -> list[np.ndarray]:
        if not self.spec.limbs:
            return [x]
        func = quant_pack(
            features=self.spec.in_features,
            rows=rows,
            norm=None,
            target=target,
            **self.spec.coding(rows),
        )
        return call(func, target, [x], *ql.packed_rows(x, self.spec, rows))

    def run(self, rows: int, target: TargetProfile, part: slice = slice(None)) -> np.ndarray:
        arrays = self.packed(self.x[part], rows, target) + list(self.w.pack(self.spec.parts).values())
        if self.bias is not None:
            arrays.append(tile16.pack_channels(self.bias, self.spec.parts).reshape(-1))
        if self.residual is not None:
            arrays.append(self.residual[part])
        func = ql.quant_linear_rows(rows=str(rows), target=target, **self.params)
        return call(func, target, arrays, np.zeros((len(self.x[part]), self.spec.out_features), np.float32))[0]

    def one_by_one(self, target: TargetProfile) -> np.ndarray:
        return np.concatenate([self.run(1, target, slice(i, i + 1)) for i in range(len(self.x))])

    def reference(self) -> np.ndarray:
        operands = (self.bias, self.residual, self.spec.epilogue)
        return quant_reference.linear(self.x, self.w, self.spec.activation, *operands)


def assert_same_bits(got: np.ndarray, want: np.ndarray) -> None:
    assert np.isfinite(want).all()
    differing = np.flatnonzero(got.view(np.uint32) != want.view(np.uint32))
    assert not differing.size, f"{differing.size} of {want.size} values differ, first at {differing[0]}"


@pytest.mark.parametrize(("name", "k", "n", "epilogue"), LAYERS, ids=[layer[0] for layer in LAYERS])
def test_row_classes_and_targets_agree(name: str, k: int, n: int, epilogue: tuple[str, ...]) -> None:
    layer = Layer(name, k, n, epilogue)
    want = layer.one_by_one(TARGETS[0])
    np.testing.assert_allclose(want, layer.reference(), rtol=1e-5, atol=1e-5)
    for target in TARGETS:
        assert_same_bits(layer.one_by_one(target), want)
        assert_same_bits(layer.run(4, target), want)
        for count in range(1, ROWS + 1):
            assert_same_bits(layer.run(8, target, slice(0, count)), want[:count])


def test_a_row_with_nan_is_nan_and_harms_no_other() -> None:
    layer = Layer("w4a8-g32", 64, 40, ())
    want = layer.run(8, TARGETS[0])
    layer.x[3, 5] = np.nan
    for target in TARGETS:
        got = layer.run(8, target)
        assert np.isnan(got[3]).all()
        assert_same_bits(np.delete(got, 3, 0), np.delete(want, 3, 0))


def test_packing_with_a_norm_has_the_bits_of_rms_norm() -> None:
    rng = np.random.default_rng(3)
    x, gamma = rng.standard_normal((5, 96), dtype=np.float32), rng.standard_normal(96, dtype=np.float32)
    normal = call(rms_norm(features=96, eps=1e-6, target=TARGETS[0]), TARGETS[0], [x, gamma], x)[0]
    spec = ql.quant_spec(96, 16, "w4a16-g32", ())
    want = ql.packed_rows(normal, spec, 4)
    options = {
        "features": 96,
        "activation": "limbs",
        "group": 32,
        "factor": -8,
        "rows": 4,
        "norm": Norm("rms", 96, 1e-6),
    }
    for target in TARGETS:
        for got, array in zip(call(quant_pack(target=target, **options), target, [x, gamma], *want), want, strict=True):
            np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": "3"}, "choose one of 1, 2, 4, 8"),
        ({"scheme": "w3a8"}, "unknown quantization scheme"),
        ({"in_features": 48}, "no multiple of 32"),
        ({"scheme": "w4a8-g128"}, "groups of 128 do not divide 64"),
        ({"epilogue": ("residual", "bias")}, "no linear kernel with the epilogue"),
        ({"out_features": 0}, "at least one channel"),
    ],
)
def test_unknown_parameters_are_named(change: dict[str, object], words: str) -> None:
    params = {"rows": "1", "in_features": 64, "out_features": 16, "scheme": "w4a8", "epilogue": ()}
    with pytest.raises(ValueError, match=words):
        ql.quant_linear_rows(target=TARGETS[0], **{**params, **change})


def test_activations_that_cannot_be_packed_are_named() -> None:
    options = {"features": 64, "rows": 1, "factor": -8, "norm": None, "target": TARGETS[0]}
    with pytest.raises(ValueError, match="choose one of limbs, int8, int8-group"):
        quant_pack(activation="f32", group=32, **options)
    with pytest.raises(ValueError, match="groups of 48 do not divide 64"):
        quant_pack(activation="int8", group=48, **options)
    with pytest.raises(ValueError, match="per group need weights in groups"):
        scheme("w4a8-pc-ag")
