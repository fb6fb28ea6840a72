"""Quantized linears for many rows: the bits of the kernel for few rows, and extreme codes."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest

from heddle.schedules.compat import PrimFunc, tvm
from heddle.schedules.cpu.quant_linear_rows import packed_rows, quant_linear_rows, quant_spec
from heddle.schedules.cpu.quant_linear_tiles import quant_linear_tiles
from heddle.schedules.layouts import tile16
from heddle.schedules.layouts.quantized import QuantizedMatrix
from heddle.schedules.layouts.rows import ROW_TILE
from heddle.schedules.target import TargetProfile
from tests.cpu_targets import TARGETS

ROWS = 29  # more than two tiles of rows, and a last one that is not full
LAYERS = [
    (100, 33, "w8a8", ("bias", "residual")),
    (128, 40, "w4a8-g64", ()),
    (64, 24, "w4a8-ag", ("gated:silu",)),
    (64, 20, "w8a8-g32", ("bias", "gelu")),
    (96, 17, "w4a8-2l", ("residual",)),
    (64, 16, "w4a16-asym", ()),
    (64, 16, "w4a16-2l-asym", ("bias",)),
    (64, 24, "w4a8-min", ("bias", "residual")),
    (128, 24, "w8a8-g64-min-ag", ("gated:silu",)),
]


@functools.cache
def compiled(func: PrimFunc, target: TargetProfile) -> Callable[..., None]:
    return tvm.compile(func.with_attr("global_symbol", "main"), target=target.tvm_target())["main"]


class Layer:
    """A layer whose codes are the smallest and the largest of the format, for rows of extremes."""

    def __init__(self, k: int, n: int, scheme: str, epilogue: tuple[str, ...]) -> None:
        rng = np.random.default_rng(k * n)
        self.params = {"in_features": k, "out_features": n, "scheme": scheme, "epilogue": epilogue}
        self.spec = quant_spec(k, n, scheme, epilogue)
        fmt, rows = self.spec.weight, n * self.spec.parts
        shape, (low, high) = (rows, fmt.groups(k)), fmt.codes
        codes = np.where(rng.random((rows, k)) < 0.5, low, high).astype(np.uint8)
        codes[: rows // 2, : k // 2] = high  # sums of one sign, where saturation would show
        scales = rng.uniform(0.01, 0.02, shape).astype(np.float16)
        self.matrix = QuantizedMatrix(
            fmt,
            codes,
            rng.integers(1, 16, shape, dtype=np.uint8) if fmt.two_level else scales,
            None if fmt.symmetric else rng.integers(low, high + 1, shape, dtype=np.uint8),
            rng.uniform(0.001, 0.002, rows).astype(np.float32) if fmt.two_level else None,
            rng.uniform(-0.3, 0.1, shape).astype(np.float16) if fmt.minima else None,
        )
        self.x = np.where(rng.random((ROWS, k)) < 0.5, -1, 1).astype(np.float32) * rng.uniform(0.9, 1, (ROWS, k))
        self.x = self.x.astype(np.float32)
        self.x[::3] = np.abs(self.x[::3])
        self.bias, self.residual = rng.standard_normal(rows, dtype=np.float32), rng.standard_normal((ROWS, n))

    def run(self, rows: int, target: TargetProfile, part: slice) -> np.ndarray:
        """y of the rows in `part`, packed in tiles of `rows`."""
        x, spec = self.x[part], self.spec
        arrays = [*packed_rows(x, spec, rows), *self.matrix.pack(spec.parts).values()]
        if "bias" in spec.epilogue:
            arrays.append(tile16.pack_channels(self.bias, spec.parts).reshape(-1))
        if "residual" in spec.epilogue:
            arrays.append(np.ascontiguousarray(self.residual[part].astype(np.float32)))
        many = rows == ROW_TILE
        func = quant_linear_tiles(**self.params, target=target) if many else None
        func = func or quant_linear_rows(rows=str(rows), **self.params, target=target)
        y = tvm.runtime.tensor(np.full((len(x), spec.out_features), np.nan, np.float32))
        compiled(func, target)(*map(tvm.runtime.tensor, arrays), y)
        return y.numpy()


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda x: f"{x[2]}-{'-'.join(x[3])}")
def test_rows_have_the_bits_of_the_kernel_for_few_rows(
    layer: tuple[int, int, str, tuple[str, ...]], target: TargetProfile
) -> None:
    made = Layer(*layer)
    want = made.run(4, TARGETS[0], slice(None))
    assert np.isfinite(want).all()
    assert np.abs(want).max() > 0
    for part in (slice(None), slice(5, 6), slice(3, 20)):
        got = made.run(ROW_TILE, target, part)
        np.testing.assert_array_equal(got.view(np.uint32), want[part].view(np.uint32))


def test_float_activations_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel for few rows"):
        quant_linear_tiles(in_features=64, out_features=32, scheme="w4a16-f32", target=TARGETS[0])
