"""y = x @ w.T with an epilogue: one kernel a row class, all with the same bits.

Every output is one chain of fused multiply-adds over ascending k that starts at +0, in a lane of its own; then the
epilogue follows (`schedules.epilogue`). No row class splits k or sums across
lanes, so a row has the same bits alone, among few and among many rows, on every target.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import epilogue as epilogues
from ..compat import PrimFunc, finish
from ..layouts import tile32
from ..layouts.rows import pack_rows, row_tile, unpack_rows
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from .linear_rows import linear_rows
from .linear_spec import ROWS, LinearSpec
from .linear_tiles import linear_tiles
from .reference import itemsize, narrow, widen

__all__ = ["linear", "row_tile"]


def _spec(in_features: int, out_features: int, weight_dtype: str, epilogue: tuple[str, ...], **_: Any) -> LinearSpec:
    return LinearSpec(in_features, out_features, weight_dtype, epilogue)


def _reference(x: np.ndarray, w: np.ndarray, *operands: np.ndarray, **params: Any) -> tuple[np.ndarray, ...]:
    spec = _spec(**params)
    columns, parts = spec.out_features, spec.parts
    named = dict(zip([e for e in spec.epilogue if e in ("bias", "residual")], operands, strict=True))
    rows = unpack_rows(x) if params["rows"] == "n" else x
    matrix = tile32.unpack(widen(w, spec.weight_dtype), columns * parts, parts)
    y = rows.astype(np.float64) @ matrix.astype(np.float64).T
    bias, residual = named.get("bias"), named.get("residual")
    if bias is not None:
        bias = bias.reshape(parts, -1)[:, :columns].reshape(-1)
    y = y if residual is None else y[: len(residual)]
    return (epilogues.reference(y, spec.epilogue, bias, residual).astype(np.float32),)


def _inputs(rng: np.random.Generator, *, n: int, **params: Any) -> list[np.ndarray]:
    spec = _spec(**params)
    rows = spec.parts * spec.out_features
    x = rng.standard_normal((n, spec.in_features), dtype=np.float32)
    w = rng.standard_normal((rows, spec.in_features), dtype=np.float32) / np.float32(np.sqrt(spec.in_features))
    arrays = [pack_rows(x) if params["rows"] == "n" else x, tile32.pack(narrow(w, spec.weight_dtype), spec.parts)]
    if "bias" in spec.epilogue:
        arrays.append(tile32.pad_vector(rng.standard_normal(rows, dtype=np.float32), spec.parts))
    if "residual" in spec.epilogue:
        arrays.append(rng.standard_normal((n, spec.out_features), dtype=np.float32))
    return arrays


def _cost(*, n: int, **params: Any) -> Cost:
    spec = _spec(**params)
    weights = int(np.prod(spec.weight_shape))
    floats = n * spec.in_features + n * spec.out_features * (2 if "residual" in spec.epilogue else 1)
    floats += spec.bias_size if "bias" in spec.epilogue else 0
    macs = n * spec.in_features * spec.out_features * spec.parts
    return Cost(bytes=weights * itemsize(spec.weight_dtype) + 4 * floats, flops=2 * macs)


def _cases() -> list[Case]:
    shapes = [
        # K, N, dtype, epilogue
        (64, 96, "float32", ()),
        (37, 45, "float16", ("bias", "residual")),
        (130, 290, "bfloat16", ("residual",)),
        (33, 50, "float16", ("gated:silu",)),
        (48, 64, "bfloat16", ("bias", "gated:silu")),
    ]
    cases = []
    for rows, sizes in (("1", (1,)), ("4", (3, 5)), ("8", (7,)), ("n", (24,))):
        for k, n, dtype, epilogue in shapes:
            params = {"rows": rows, "in_features": k, "out_features": n, "weight_dtype": dtype, "epilogue": epilogue}
            cases += [Case(params, {"n": rows_now}) for rows_now in sizes]
    # Blocks of k, more rows than one task holds, and a last tile of rows that is not full.
    long = {"rows": "n", "in_features": 2100, "out_features": 33, "weight_dtype": "float16", "epilogue": ("residual",)}
    return [*cases, Case(long, {"n": 205})]


@kernel(
    reference=_reference,
    inputs=_inputs,
    cost=_cost,
    tolerance=Tolerance(2e-6, "float32 sums of up to a few thousand products in one chain"),
    cases=_cases(),
)
def linear(
    *,
    rows: str,
    in_features: int,
    out_features: int,
    weight_dtype: str,
    epilogue: tuple[str, ...] = (),
    target: TargetProfile,
) -> PrimFunc:
    """A linear layer over a weight [N, K] in tile32, for one row class.

    `rows` "1": x float32 [1, K]. "4", "8": x float32 [n, K], meant for up to 4 or 8 rows and right for any number.
    "n": x from `pack_rows`. Then w [parts * ceil(N / 32), K, 32] in `weight_dtype`, then the operands of the epilogue:
    bias float32 [parts * ceil32(N)], residual float32 [n, N]; then the output y float32 [n, N]. With "gated:<kind>" the
    weight is gate | up (two parts); `schedules.epilogue` says what the items are.

    Raises ValueError for a row class, weight type or epilogue that does not exist.
    """
    spec = LinearSpec(in_features, out_features, weight_dtype, tuple(epilogue))
    if rows not in ROWS:
        raise ValueError(f"no linear kernel for rows {rows!r}; choose one of {', '.join(ROWS)}")
    return finish(linear_tiles(spec, target) if rows == "n" else linear_rows(spec, int(rows), target))
