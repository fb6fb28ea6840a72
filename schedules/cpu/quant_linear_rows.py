"""The registered kernel of quantized linears for few rows, and the inputs and reference that it shares with many rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import epilogue as epilogues
from ..compat import PrimFunc, finish
from ..layouts import tile16
from ..layouts.quantized import QuantizedMatrix, packed_arrays
from ..layouts.scheme import WeightFormat, scheme
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from . import quant_reference
from .quant_pack import pack_activations
from .quant_rows import quant_rows
from .quant_spec import QuantSpec

ROWS = ("1", "2", "4", "8")


def quant_spec(in_features: int, out_features: int, scheme_name: str, epilogue: tuple[str, ...]) -> QuantSpec:
    """The spec of a linear with a scheme's weights and activations. Raises ValueError where they do not fit."""
    found = scheme(scheme_name)
    return QuantSpec(in_features, out_features, found.weight, found.activation, tuple(epilogue))


def random_matrix(rng: np.random.Generator, fmt: WeightFormat, rows: int, columns: int) -> QuantizedMatrix:
    """A matrix of random codes, scales, and zero points or minima."""
    low, high = fmt.codes
    shape = rows, fmt.groups(columns)
    codes = rng.integers(low, high + 1, (rows, columns), dtype=np.uint8)
    floats = rng.uniform(0.01, 0.02, shape).astype(np.float16)
    scales: np.ndarray = rng.integers(1, 16, shape, dtype=np.uint8) if fmt.two_level else floats
    zeros = None if fmt.symmetric else rng.integers(low, high + 1, shape, dtype=np.uint8)
    channels = rng.uniform(0.001, 0.002, rows).astype(np.float32) if fmt.two_level else None
    mins = rng.uniform(-0.2, 0.01, shape).astype(np.float16) if fmt.minima else None
    return QuantizedMatrix(fmt, codes, scales, zeros, channels, mins)


def packed_rows(x: np.ndarray, spec: QuantSpec, tile_rows: int) -> list[np.ndarray]:
    """The activations as a kernel takes them: x itself, or codes, scales and sums in tiles of `tile_rows` rows."""
    if not spec.limbs:
        return [x]
    return list(pack_activations(x, rows=tile_rows, **spec.coding(tile_rows)))


def random_inputs(rng: np.random.Generator, spec: QuantSpec, n: int, tile_rows: int) -> list[np.ndarray]:
    """Arguments of a kernel before its output, and x float32 [n, K] itself as the last for the reference."""
    channels = spec.parts * spec.out_features
    x = rng.standard_normal((n, spec.in_features), dtype=np.float32)
    arrays = packed_rows(x, spec, tile_rows)
    arrays += random_matrix(rng, spec.weight, channels, spec.in_features).pack(spec.parts).values()
    if "bias" in spec.epilogue:
        arrays.append(tile16.pack_channels(rng.standard_normal(channels, dtype=np.float32), spec.parts).reshape(-1))
    if "residual" in spec.epilogue:
        arrays.append(rng.standard_normal((n, spec.out_features), dtype=np.float32))
    return arrays


def reference(spec: QuantSpec, tile_rows: int, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """y float32 [n, N] of a kernel's packed arguments; where nothing says n, all rows of the tiles."""
    rest = list(arrays)
    x = _rows(spec, tile_rows, [rest.pop(0) for _ in range(3 if spec.limbs else 1)])
    channels = spec.parts * spec.out_features
    names = packed_arrays(spec.weight, channels, spec.in_features, spec.parts)
    w = QuantizedMatrix.unpack(spec.weight, {name: rest.pop(0) for name in names}, channels, spec.parts)
    y = quant_reference.matmul_f32(x, w) if isinstance(x, np.ndarray) else quant_reference.matmul_quantized(x, w)
    bias = residual = None
    if "bias" in spec.epilogue:
        bias = tile16.unpack_channels(rest.pop(0).reshape(-1, tile16.TILE), channels, spec.parts)
    if "residual" in spec.epilogue:
        residual = rest.pop(0)
        y = y[: len(residual)]
    return (epilogues.reference(y, spec.epilogue, bias, residual).astype(np.float32),)


def _rows(spec: QuantSpec, tile_rows: int, arrays: list[np.ndarray]) -> np.ndarray | quant_reference.QuantizedRows:
    if not spec.limbs:
        return arrays[0]
    words, scales, _ = arrays
    tiles, blocks = words.shape[:2]
    split = words.reshape(tiles, blocks, tile_rows, spec.limbs, -1).transpose(3, 0, 2, 1, 4)
    codes = np.ascontiguousarray(split).view(np.int8).reshape(spec.limbs, tiles * tile_rows, -1)
    by_row = scales.transpose(0, 2, 1).reshape(tiles * tile_rows, -1)
    return quant_reference.QuantizedRows(np.ascontiguousarray(codes[..., : spec.in_features]), by_row)


def cost(spec: QuantSpec, n: int) -> Cost:
    """Bytes of the packed weight, of the activations as codes, and of the output; a multiplied and added pair is two."""
    channels = spec.parts * spec.out_features
    arrays = packed_arrays(spec.weight, channels, spec.in_features, spec.parts).values()
    weights = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in arrays)
    floats = n * spec.out_features * (2 if "residual" in spec.epilogue else 1)
    return Cost(
        bytes=weights + n * spec.in_features * (spec.limbs or 4) + 4 * floats,
        flops=2 * n * spec.in_features * channels * max(spec.limbs, 1),
    )


def _spec(in_features: int, out_features: int, scheme: str, epilogue: tuple[str, ...], **_: Any) -> QuantSpec:
    return quant_spec(in_features, out_features, scheme, epilogue)


def tolerance(spec: QuantSpec) -> Tolerance:
    """Bits, but for activation functions, which are polynomials."""
    if not epilogues.exact(spec.epilogue):
        return Tolerance(2e-6, "an activation function of a polynomial")
    return Tolerance(0, "exact int32 sums, and one fma for each group in one order")


SHAPES: list[tuple[int, int, str, tuple[str, ...]]] = [
    # K, N, scheme, epilogue
    (96, 64, "w4a8", ()),
    (64, 50, "w4a8-ag", ("bias", "residual")),
    (32, 20, "w4a8-ag", ("bias",)),
    (128, 33, "w4a8-g64-asym", ("residual",)),
    (96, 24, "w4a8-pc", ("gated:silu",)),
    (96, 97, "w4a8-2l", ("bias", "residual")),
    (64, 16, "w4a16-2l-asym", ()),
    (256, 40, "w4a16-g128", ("bias", "gated:silu")),
    (64, 70, "w4a16-f32-asym", ("bias",)),
    (64, 18, "w4a16-f32-2l", ()),
    (128, 37, "w4a8-min", ("bias", "residual")),
    (64, 21, "w8a8-g32-min-ag", ("gated:silu",)),
    (256, 18, "w4a16-g128-min", ("residual",)),
    (64, 34, "w4a16-g32-min-f32", ("bias",)),
    (100, 45, "w8a8", ("bias",)),
    (64, 31, "w8a8-g32-ag", ("residual",)),
    (84, 130, "w8a16-asym", ("bias", "residual")),
    (44, 34, "w8a16-f32", ("gated:silu",)),
]


def _cases() -> list[Case]:
    cases = []
    for rows, n in (("1", 1), ("4", 3), ("8", 11)):
        for k, channels, name, epilogue in SHAPES[:: 3 if rows == "4" else 1]:
            judged = tolerance(quant_spec(k, channels, name, epilogue))
            params = {"in_features": k, "out_features": channels, "scheme": name, "epilogue": epilogue}
            # Nothing but the residual and float32 activations tells n: elsewhere the reference sees whole tiles.
            knows = "residual" in epilogue or "f32" in name
            count = n if knows else -(-n // int(rows)) * int(rows)
            cases.append(Case({"rows": rows} | params, {"n": count}, judged))
    return cases


@kernel(
    reference=lambda *arrays, rows, **params: reference(_spec(**params), int(rows), *arrays),
    inputs=lambda rng, *, n, rows, **params: random_inputs(rng, _spec(**params), n, int(rows)),
    cost=lambda *, n, rows, **params: cost(_spec(**params), n),
    tolerance=Tolerance(0, "exact int32 sums, and one fma for each group in one order"),
    cases=_cases(),
)
def quant_linear_rows(
    *,
    rows: str,
    in_features: int,
    out_features: int,
    scheme: str,
    epilogue: tuple[str, ...] = (),
    target: TargetProfile,
) -> PrimFunc:
    """A quantized linear layer for one row ("1") or few ("2", "4", "8": meant for up to so many, right for any number).

    Arguments: the activations from `quant_pack` in tiles of `rows` rows (codes, scales, sums; x float32 [n, K] for
    schemes with float32 activations); the weight as `QuantizedMatrix.pack` gives it (codes, scales, and zeros, mins
    and channels where the format has them), gate | up in two parts with "gated:<kind>"; bias float32 [parts * ceil16(N)] and
    residual float32 [n, N] where the epilogue has them; then the output y float32 [n, N].

    Raises ValueError for a row class, scheme or epilogue that does not exist, and for columns that groups do not divide.
    """
    if rows not in ROWS:
        raise ValueError(f"no quantized linear kernel for rows {rows!r}; choose one of {', '.join(ROWS)}")
    return finish(quant_rows(quant_spec(in_features, out_features, scheme, epilogue), int(rows), target))
