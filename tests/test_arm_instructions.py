"""Kernels for Arm: the instructions in their inner loops, and none that a profile lacks. tests/targets runs them."""

from __future__ import annotations

import re

import pytest

from heddle.ir_passes.sparse.catalog import attention
from heddle.schedules.cpu.linear import linear
from heddle.schedules.cpu.quant_linear_rows import quant_linear_rows
from heddle.schedules.cpu.quant_linear_tiles import quant_linear_tiles
from heddle.schedules.layouts.rows import ROW_TILE
from heddle.schedules.registry import KERNELS
from heddle.schedules.target import PROFILES, VECTOR, TargetProfile
from tests.cpu_targets import assembly

ARM = [p for p in PROFILES.values() if p.arch == "aarch64" and p.kernels == VECTOR]
# sdot, usdot, sudot and matrix products with their last operand: a vector, or one word of it for all lanes.
PRODUCTS = re.compile(r"^\s+([us]+dot|\w*mmla)\s+v\d+\.4s, v\d+\.16b, v\d+\.(?:16b|4b(\[))", re.MULTILINE)
SLOW_PRODUCTS = re.compile(r"^\s+[us](?:mull|mlal)2?\s+v\d+", re.MULTILINE)
# Scalable vectors, arithmetic in 16 bits, bfloat16.
BEYOND = re.compile(r"^\s+(?:\w+\s+[zp]\d+\.|f(?:add|mul|mla|sub)\s+v\d+\.[48]h|bf\w+\s+v\d+)", re.MULTILINE)
I8MM = re.compile(r"^\s+(?:usdot|sudot|\w*mmla)\s", re.MULTILINE)

arm = pytest.mark.parametrize("target", ARM, ids=lambda p: p.name)


def check(text: str, target: TargetProfile) -> set[tuple[str, str]]:
    """The 8-bit products of an assembly that has nothing beyond its profile."""
    assert not BEYOND.search(text)
    assert not SLOW_PRODUCTS.search(text)
    assert target.dots == "usdot" or not I8MM.search(text)
    return set(PRODUCTS.findall(text))


@pytest.mark.parametrize("tile_rows", [1, 8, ROW_TILE])
@pytest.mark.parametrize("name", ["w4a8", "w4a16-2l", "w8a8"])
@arm
def test_quantized_linears_multiply_by_words_of_a_vector(target: TargetProfile, name: str, tile_rows: int) -> None:
    """No instruction spreads a word to all lanes first; many rows are multiplied as matrices where there is i8mm."""
    params = {"in_features": 64, "out_features": 32, "scheme": name, "target": target}
    many = tile_rows == ROW_TILE
    func = quant_linear_tiles(**params) if many else quant_linear_rows(rows=str(tile_rows), **params)
    wanted = ("usmmla", "") if many and target.dots == "usdot" else (target.dots, "[")
    assert check(assembly(func, target), target) == {wanted}


@arm
def test_attention_over_int8_pages_has_exact_dot_products(target: TargetProfile) -> None:
    case = next(case for case in reversed(KERNELS["attention"].cases) if case.params["kv_dtype"] == "int8")
    found = check(assembly(attention(target=target, **case.params), target), target)
    # sdot takes signed bytes: a sum of values by one constant corrects that weights are not.
    names, constant = ({"usdot", "sudot"}, set()) if target.dots == "usdot" else ({"sdot"}, {("sdot", "")})
    assert {name for name, _ in found} == names
    assert {(name, "[") for name in names} | constant <= found


@pytest.mark.parametrize(("dtype", "widens"), [("float16", "fcvtl"), ("bfloat16", "shll")])
@pytest.mark.parametrize("rows", ["1", "8", "n"])
def test_float_linears_multiply_by_an_element(rows: str, dtype: str, widens: str) -> None:
    target = PROFILES["aarch64-dotprod"]
    text = assembly(linear(rows=rows, in_features=64, out_features=64, weight_dtype=dtype, target=target), target)
    assert check(text, target) == set()
    assert re.search(rf"^\s+{widens}2\s+v\d+\.4s", text, re.MULTILINE)
    assert len(re.findall(r"^\s+fmla\s+v\d+\.4s, v\d+\.4s, v\d+\.s\[\d\]", text, re.MULTILINE)) >= 8
    assert not re.search(r"^\s+fmul\s+v\d+\.4s", text, re.MULTILINE)  # nothing rounds before it is added


@pytest.mark.parametrize(("name", "sums"), [("w8a8", 64), ("w4a8-2l", 64)])
@arm
def test_sums_over_all_of_k_stay_in_registers(target: TargetProfile, name: str, sums: int) -> None:
    """The innermost loop of many rows neither reads nor writes the stack."""
    params = {"in_features": 256, "out_features": 64, "scheme": name, "target": target}
    lines = assembly(quant_linear_tiles(**params), target).splitlines()
    loops = [body for body in innermost(lines) if any(PRODUCTS.match(line) for line in body)]
    assert loops
    for body in loops:
        products = sum(bool(PRODUCTS.match(line)) for line in body)
        assert products == (sums if target.dots == "usdot" else 2 * sums)
        assert not [line for line in body if re.match(r"\s+(ld|st)\w+\s.*\[sp", line)]


def innermost(lines: list[str]) -> list[list[str]]:
    """The bodies of loops that hold no other loop."""
    labels = {line.split(":")[0]: i for i, line in enumerate(lines) if line.startswith(".L")}
    spans = []
    for i, line in enumerate(lines):
        found = re.match(r"\s+(?:b\S*|cbn?z|tbn?z)\s.*?(\.L\w+)", line)
        if found and labels.get(found[1], i) < i:
            spans.append((labels[found[1]], i))
    return [lines[a : b + 1] for a, b in spans if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in spans)]
