"""Quantized linears on every instruction set: the instructions that a profile exists for, and sums that would saturate."""

from __future__ import annotations

import re

import numpy as np
import pytest

from heddle.schedules.compat import PrimFunc, tvm
from heddle.schedules.cpu.quant_linear_rows import packed_rows, quant_linear_rows, quant_spec, reference
from heddle.schedules.cpu.quant_linear_tiles import quant_linear_tiles
from heddle.schedules.layouts.quantized import QuantizedMatrix
from heddle.schedules.layouts.rows import ROW_TILE
from heddle.schedules.layouts.scheme import scheme
from heddle.schedules.target import PROFILES, VECTOR, TargetProfile
from tests.cpu_targets import TARGETS, assembly

X86 = [p for p in PROFILES.values() if p.arch == "x86_64" and p.kernels == VECTOR]
KINDS = [1, 8, ROW_TILE]  # rows of a tile of activations: one row, few, many
MULTIPLY = re.compile(r"^\s+(?:\{(vex)\}\s+)?(vpdpbusd|vpmaddwd|vpmaddubsw)\b.*%([xyz]mm)\d+$", re.MULTILINE)
K = 8192
SCHEMES = ["w8a8", "w8a16-asym", "w8a8-g32-ag-asym", "w4a8", "w4a16-2l", "w4a8-2l-asym", "w4a16-min"]


def kernel(tile_rows: int, k: int, n: int, name: str, target: TargetProfile) -> PrimFunc:
    """The kernel for so many rows."""
    params = {"in_features": k, "out_features": n, "scheme": name, "target": target}
    if tile_rows == ROW_TILE:
        return quant_linear_tiles(**params).with_attr("global_symbol", "main")
    return quant_linear_rows(rows=str(tile_rows), **params).with_attr("global_symbol", "main")


@pytest.mark.parametrize("tile_rows", KINDS)
@pytest.mark.parametrize("name", ["w4a8", "w4a8-2l", "w4a16", "w8a8"])
@pytest.mark.parametrize("target", X86, ids=lambda p: p.name)
def test_the_assembly_has_the_instructions_of_the_target(target: TargetProfile, name: str, tile_rows: int) -> None:
    found = set(MULTIPLY.findall(assembly(kernel(tile_rows, 64, 32, name, target), target)))
    register = "zmm" if target.vector_bits == 512 else "ymm"
    # Bytes may be multiplied in pairs only where codes are below 128: of 4 bits, and not yet times a scale.
    small = scheme(name).weight.bits == 4 and not (scheme(name).weight.two_level and tile_rows == ROW_TILE)
    if target.dots:
        # The VEX encoding is the one that CPUs without AVX-512 have.
        assert found == {("" if target.vector_bits == 512 else "vex", "vpdpbusd", register)}
    elif small:
        assert found == {("", "vpmaddubsw", register), ("", "vpmaddwd", register)}
    else:
        assert found == {("", "vpmaddwd", register)}


def extremes(name: str, tile_rows: int) -> list[np.ndarray]:
    """Activations of -127 and 127 (by limbs -127 and 127, with low limbs of both signs), smallest and largest codes."""
    spec = quant_spec(K, 20, name, ())
    fmt, k, channel = spec.weight, np.arange(K), np.arange(20)[:, None]
    signs = np.stack([np.ones(K), -np.ones(K), (-1.0) ** k, (-1.0) ** (k // 2)] * 3)
    x = (signs * np.where((k % 5 == 1) & (np.arange(12)[:, None] >= 4), 0.996, 1)).astype(np.float32)
    low, high = fmt.codes
    large = np.stack([k >= 0, k < 0, k % 2 == 0, k // 2 % 2 == 0, k < K // 2])[channel[:, 0] % 5]
    shape = (20, fmt.groups(K))
    zeros = np.broadcast_to(np.where(channel % 3, low, high), shape).astype(np.uint8)
    w = QuantizedMatrix(
        fmt,
        np.where(large, high, low).astype(np.uint8),
        np.full(shape, 15, np.uint8) if fmt.two_level else np.full(shape, 0.013, np.float16),
        None if fmt.symmetric else zeros,
        np.linspace(0.001, 0.002, 20, dtype=np.float32) if fmt.two_level else None,
        np.full(shape, -0.11, np.float16) if fmt.minima else None,
    )
    return [*packed_rows(x[:tile_rows], spec, tile_rows), *w.pack().values()]


@pytest.mark.parametrize("tile_rows", KINDS)
@pytest.mark.parametrize("name", SCHEMES)
def test_extreme_codes_and_activations_are_exact(name: str, tile_rows: int) -> None:
    arrays = extremes(name, tile_rows)
    want = reference(quant_spec(K, 20, name, ()), tile_rows, *arrays)[0]
    for target in TARGETS:
        main = tvm.compile(kernel(tile_rows, K, 20, name, target), target=target.tvm_target())["main"]
        y = tvm.runtime.tensor(np.full_like(want, np.nan))
        main(*map(tvm.runtime.tensor, arrays), y)
        np.testing.assert_array_equal(y.numpy(), want, err_msg=target.name)
