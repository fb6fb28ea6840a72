"""Rotary position embedding: the table of one step, and the rotation of every head by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..compat import PrimFunc, T, finish
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import LANES
from .spans import fma_span, full, span


def table_reference(positions: np.ndarray, inv_freq: np.ndarray, scale: np.ndarray, **_: Any) -> tuple[np.ndarray]:
    angle = (positions.astype(np.float32)[:, None] * inv_freq).astype(np.float64)
    return (np.concatenate([np.cos(angle), np.sin(angle)], 1).astype(np.float32) * scale,)


def _table_inputs(rng: np.random.Generator, *, rotary_dim: int, n: int, **_: Any) -> list[np.ndarray]:
    inv_freq = 10000.0 ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
    return [rng.integers(0, 40000, n, np.int32), inv_freq.astype(np.float32), np.array([1.25], np.float32)]


@kernel(
    reference=table_reference,
    inputs=_table_inputs,
    cost=lambda *, rotary_dim, n, **_: Cost(bytes=4 * n * rotary_dim, flops=20 * n * rotary_dim),
    tolerance=Tolerance(1e-6, "libm's cosf and sinf"),
    cases=[Case({"rotary_dim": d}, {"n": n}) for d, n in ((64, 5), (2, 3), (72, 1))],
)
def rope_table(*, rotary_dim: int, target: TargetProfile) -> PrimFunc:
    """positions int32 [n], inv_freq float32 [R/2], scale float32 [1] -> float32 [n, R]: cos * scale, then sin * scale.

    The angle is the float32 product of position and inverse frequency, as in Hugging Face transformers.
    """
    half = rotary_dim // 2

    @T.prim_func(private=True, s_tir=True)
    def table_rows(positions_: T.handle, inv_freq_: T.handle, scale_: T.handle, table_: T.handle):
        n = T.int64()
        positions = T.match_buffer(positions_, (n,), "int32")
        inv_freq = T.match_buffer(inv_freq_, (half,), "float32")
        scale = T.match_buffer(scale_, (1,), "float32")
        table = T.match_buffer(table_, (n, rotary_dim), "float32", align=64)
        for row in T.parallel(n):
            for i in T.serial(half):
                angle: T.let[T.float32] = T.cast(positions[row], "float32") * inv_freq[i]
                table[row, i] = T.cos(angle) * scale[0]
                table[row, half + i] = T.sin(angle) * scale[0]

    return finish(table_rows)


def rotation(rotary_dim: int, head_dim: int, interleaved: bool) -> Callable[..., None]:
    """Macro `rotate(x, x_row, x_at, table, row, y, y_row, y_at)`: a head at x[x_row, x_at] into y[y_row, y_at], by table[row].

    A pair (a, b) becomes (a*cos - b*sin, b*cos + a*sin), where the second product of each is fused into the sum.
    """
    half = rotary_dim // 2
    pair, partner = (2, 1) if interleaved else (1, half)

    @T.inline
    def rotate_pairs(x, x_row, x_at, table, row, y, y_row, y_at, i, n):
        a: T.let = x[x_row, span(x_at + i * pair, n)]
        b: T.let = x[x_row, span(x_at + i * pair + partner, n)]
        cos: T.let = table[row, span(i, n)]
        sin: T.let = table[row, span(half + i, n)]
        y[y_row, span(y_at + i * pair, n)] = fma_span(b * full(-1.0, n), sin, a * cos, n)
        y[y_row, span(y_at + i * pair + partner, n)] = fma_span(a, sin, b * cos, n)

    vectors = 0 if interleaved else half // LANES

    @T.inline
    def rotate(x, x_row, x_at, table, row, y, y_row, y_at):
        for i in T.serial(vectors):
            rotate_pairs(x, x_row, x_at, table, row, y, y_row, y_at, i * LANES, LANES)
        for i in T.serial(half - vectors * LANES):
            rotate_pairs(x, x_row, x_at, table, row, y, y_row, y_at, vectors * LANES + i, 1)
        for i in T.serial(head_dim - rotary_dim):
            y[y_row, y_at + rotary_dim + i] = x[x_row, x_at + rotary_dim + i]

    return rotate


def rope_reference(
    x: np.ndarray, table: np.ndarray, *, heads: int, head_dim: int, rotary_dim: int, interleaved: bool = False, **_: Any
) -> tuple[np.ndarray]:
    half = rotary_dim // 2
    y = x.reshape(len(x), heads, head_dim).copy()
    first, second = (
        (slice(0, rotary_dim, 2), slice(1, rotary_dim, 2))
        if interleaved
        else (
            slice(0, half),
            slice(half, rotary_dim),
        )
    )
    a, b = y[..., first].copy(), y[..., second].copy()
    cos, sin = table[:, None, :half], table[:, None, half:]
    # A float64 sum with a float32 product stands for the fma.
    y[..., first] = (a * cos).astype(np.float64) - b.astype(np.float64) * sin
    y[..., second] = (b * cos).astype(np.float64) + a.astype(np.float64) * sin
    return (y.reshape(x.shape),)


def random_table(rng: np.random.Generator, n: int, rotary_dim: int) -> np.ndarray:
    """A table of n random angles."""
    angle = rng.uniform(0, 2 * np.pi, (n, rotary_dim // 2))
    return np.concatenate([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


def _rope_inputs(
    rng: np.random.Generator, *, heads: int, head_dim: int, rotary_dim: int, n: int, **_: Any
) -> list[np.ndarray]:
    return [rng.standard_normal((n, heads * head_dim), np.float32), random_table(rng, n, rotary_dim)]


@kernel(
    reference=rope_reference,
    inputs=_rope_inputs,
    cost=lambda *, heads, head_dim, n, **_: Cost(bytes=8 * n * heads * head_dim, flops=3 * n * heads * head_dim),
    tolerance=Tolerance(1e-6, "the reference rounds its fma twice"),
    cases=[
        Case({"heads": h, "head_dim": d, "rotary_dim": r, "interleaved": i}, {"n": n})
        for h, d, r, i, n in ((3, 64, 64, False, 4), (2, 80, 40, False, 1), (1, 72, 72, False, 3), (2, 64, 32, True, 2))
    ],
)
def rope(*, heads: int, head_dim: int, rotary_dim: int, interleaved: bool = False, target: TargetProfile) -> PrimFunc:
    """x float32 [n, heads * head_dim], table float32 [n, R] -> x with the first R dimensions of every head rotated.

    Pairs are the two halves of the R dimensions (Llama), or neighbours where `interleaved` (GPT-J). Su et al. 2021.
    """
    rotate = rotation(rotary_dim, head_dim, interleaved)

    @T.prim_func(private=True, s_tir=True)
    def rope_rows(x_: T.handle, table_: T.handle, y_: T.handle):
        n = T.int64()
        x = T.match_buffer(x_, (n, heads * head_dim), "float32", align=64)
        table = T.match_buffer(table_, (n, rotary_dim), "float32", align=64)
        y = T.match_buffer(y_, (n, heads * head_dim), "float32", align=64)
        for row in T.parallel(n):
            for h in T.serial(heads):
                rotate(x, row, h * head_dim, table, row, y, row, h * head_dim)

    return finish(rope_rows)
