"""The registered kernel of quantized linears for many rows."""

from __future__ import annotations

from ..compat import PrimFunc, finish
from ..layouts.rows import ROW_TILE
from ..registry import Case, Tolerance, kernel
from ..target import TargetProfile
from .quant_linear_rows import cost, quant_spec, random_inputs, reference, tolerance
from .quant_tiles import quant_tiles

SHAPES: list[tuple[int, int, str, tuple[str, ...], int]] = [
    # K, N, scheme, epilogue, rows; without a residual the reference sees whole tiles of rows
    (100, 45, "w8a8", ("bias", "residual"), 29),
    (20, 16, "w8a8", (), 12),
    (96, 70, "w4a8", ("residual",), 290),  # more rows than one task takes
    (8320, 33, "w4a8-g64-ag", ("bias",), 12),  # more than one block of K
    (128, 40, "w4a8-2l", ("gated:silu",), 24),
    (96, 20, "w4a8-2l-asym", ("residual",), 5),
    (64, 17, "w4a16-asym", ("bias", "gated:silu"), 12),
    (96, 40, "w4a8-min", ("residual",), 29),
    (8320, 33, "w4a16-g64-min", ("bias",), 12),
    (128, 20, "w8a8-g32-min-ag", ("gated:silu",), 24),
    (52, 34, "w8a16-asym", ("residual",), 7),
]


def _cases() -> list[Case]:
    cases = []
    for k, channels, name, epilogue, n in SHAPES:
        params = {"in_features": k, "out_features": channels, "scheme": name, "epilogue": epilogue}
        cases.append(Case(params, {"n": n}, tolerance(quant_spec(k, channels, name, epilogue))))
    return cases


@kernel(
    reference=lambda *arrays, in_features, out_features, scheme, epilogue: reference(
        quant_spec(in_features, out_features, scheme, epilogue), ROW_TILE, *arrays
    ),
    inputs=lambda rng, *, n, in_features, out_features, scheme, epilogue: random_inputs(
        rng, quant_spec(in_features, out_features, scheme, epilogue), n, ROW_TILE
    ),
    cost=lambda *, n, in_features, out_features, scheme, epilogue: cost(
        quant_spec(in_features, out_features, scheme, epilogue), n
    ),
    tolerance=Tolerance(0, "exact int32 sums, and one fma for each group in one order"),
    cases=_cases(),
)
def quant_linear_tiles(
    *, in_features: int, out_features: int, scheme: str, epilogue: tuple[str, ...] = (), target: TargetProfile
) -> PrimFunc:
    """A quantized linear layer for many rows, with the bits of `quant_linear_rows`.

    Arguments: the activations from `quant_pack` in tiles of 12 rows (codes, scales, sums), then as `quant_linear_rows`
    takes them: the weight, bias, residual, and the output y float32 [n, N].

    Raises ValueError for a scheme or epilogue that does not exist, for columns that groups do not divide, and for
    schemes with float32 activations, which `quant_linear_rows` serves.
    """
    return finish(quant_tiles(quant_spec(in_features, out_features, scheme, epilogue), target))
