"""Layouts of quantized weights, names of schemes, and the exactness of the reference's arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.schedules.cpu import quant_reference as reference
from heddle.schedules.layouts import int4, int8, tile16
from heddle.schedules.layouts.quantized import QuantizedMatrix, packed_arrays
from heddle.schedules.layouts.scheme import BASES, Scheme, WeightFormat, scheme, weight_format

FORMATS = [
    WeightFormat(4, 32),
    WeightFormat(4, 64, symmetric=False),
    WeightFormat(4, None),
    WeightFormat(4, 32, two_level=True),
    WeightFormat(4, 32, symmetric=False, two_level=True),
    WeightFormat(8, None),
    WeightFormat(8, 32, symmetric=False),
    WeightFormat(4, 32, minima=True),
    WeightFormat(8, 64, minima=True),
]


def random_matrix(fmt: WeightFormat, rows: int, columns: int, seed: int = 0) -> QuantizedMatrix:
    """Codes, scales, zero points and minima over their whole ranges."""
    rng = np.random.default_rng(seed)
    low, high = fmt.codes
    shape = rows, fmt.groups(columns)
    scales = (rng.standard_normal(shape) * 0.01).astype(np.float16)
    return QuantizedMatrix(
        fmt,
        rng.integers(low, high + 1, (rows, columns), dtype=np.uint8),
        rng.integers(1, 16, shape, dtype=np.uint8) if fmt.two_level else scales,
        None if fmt.symmetric else rng.integers(0, high + 1, shape, dtype=np.uint8),
        rng.random(rows, dtype=np.float32) if fmt.two_level else None,
        rng.uniform(-0.05, 0.01, shape).astype(np.float16) if fmt.minima else None,
    )


@given(rows=st.integers(1, 40), blocks=st.integers(1, 3), parts=st.integers(1, 3), seed=st.integers(0, 99))
def test_codes_pack_and_unpack(rows: int, blocks: int, parts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for layout, top in ((int4, 16), (int8, 256)):
        codes = rng.integers(0, top, (parts * rows, blocks * layout.BLOCK), dtype=np.uint8)
        packed = layout.pack(codes, parts)
        assert packed.shape == layout.packed_shape(*codes.shape, parts)
        assert packed.dtype == np.uint8
        np.testing.assert_array_equal(layout.unpack(packed, len(codes), parts), codes)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize(("rows", "parts"), [(16, 1), (37, 1), (42, 2)])
def test_matrices_pack_and_unpack(fmt: WeightFormat, rows: int, parts: int) -> None:
    matrix = random_matrix(fmt, rows, 192)
    arrays = matrix.pack(parts)
    assert {k: (a.shape, a.dtype) for k, a in arrays.items()} == packed_arrays(fmt, rows, 192, parts)
    assert list(arrays) == list(packed_arrays(fmt, rows, 192, parts))
    assert all(a.flags.c_contiguous for a in arrays.values())
    back = QuantizedMatrix.unpack(fmt, arrays, rows, parts)
    for name in ("codes", "scales", "zeros", "channels", "mins"):
        np.testing.assert_array_equal(getattr(back, name), getattr(matrix, name))


def test_place_of_a_4_bit_code() -> None:
    codes = np.zeros((20, 64), np.uint8)
    codes[18, 32 + 4 * 2 + 3], codes[18, 32 + 16 + 4 * 2 + 3] = 5, 9  # block 1, l 2, j 3; channel 2 of tile 1
    packed = int4.pack(codes)
    assert packed[1, 1, 2, 2 * 4 + 3] == 5 | 9 << 4
    assert packed[1, 1].sum() == 5 + 9 * 16 + 12 * 16 * (8 + 8 * 16)  # the padding channels 4..15 mean 0


def test_place_of_an_8_bit_code() -> None:
    codes = np.zeros((20, 8), np.uint8)
    codes[18, 6] = 77
    packed = int8.pack(codes)
    assert packed[1, 1, 2 * 4 + 2] == 77
    np.testing.assert_array_equal(packed[1, :, 16:], 128)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_padding_channels_mean_zero(fmt: WeightFormat) -> None:
    arrays = random_matrix(fmt, 42, 192).pack(2)
    whole = QuantizedMatrix.unpack(fmt, arrays, 64).dequantize().reshape(2, 32, -1)
    np.testing.assert_array_equal(whole[:, 21:], 0)
    assert np.any(whole[:, :21])


def test_channel_values_follow_the_tiles() -> None:
    v = np.arange(1, 43, dtype=np.float32)
    packed = tile16.pack_channels(v, 2)
    assert packed.shape == (4, 16)
    assert (packed[1, 4], packed[1, 5], packed[2, 0]) == (21, 0, 22)
    np.testing.assert_array_equal(tile16.unpack_channels(packed, 42, 2), v)


@pytest.mark.parametrize(
    ("name", "weight", "activation"),
    [
        ("w4a16", WeightFormat(4, 32), "limbs"),
        ("w4a8", WeightFormat(4, 32), "int8"),
        ("w4a8-g64-2l", WeightFormat(4, 64, two_level=True), "int8"),
        ("w4a8-ag", WeightFormat(4, 32), "int8-group"),
        ("w4a16-f32-pc-asym", WeightFormat(4, None, symmetric=False), "f32"),
        ("w8a8", WeightFormat(8, None), "int8"),
        ("w8a16-g128", WeightFormat(8, 128), "limbs"),
        ("w4a8-min", WeightFormat(4, 32, minima=True), "int8"),
        ("w8a8-g64-min-ag", WeightFormat(8, 64, minima=True), "int8-group"),
    ],
)
def test_scheme_names(name: str, weight: WeightFormat, activation: str) -> None:
    found = scheme(name)
    assert found == Scheme(weight, activation)
    assert scheme(found.name) == found
    assert weight_format(weight.name) == weight


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("w3a8", "unknown quantization scheme 'w3a8'; known are w4a16, w4a8, w8a8, w8a16"),
        ("w4a8-g48", "g32, -g64, -g128"),
        ("w4a8-g32-g32", "unknown"),
        ("", "unknown"),
        ("w4a8-g32-pc", "several group sizes: g32, pc"),
        ("w4a16-ag", "choose w4a8-ag"),
        ("w8a8-f32", "choose w8a16-f32"),
        ("w8a8-g32-2l", "drop `2l`"),
        ("w4a8-pc-2l", "drop `2l`"),
        ("w8a8-ag", "drop `ag`"),
        ("w4a8-2l-ag", "drop `ag`"),
        ("w4a8-asym-min", "take the place of zero points; drop `min`"),
        ("w4a8-2l-min", "drop `min`"),
        ("w8a8-min", "weights in groups"),
    ],
)
def test_wrong_scheme_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scheme(name)


def test_shapes_that_do_not_suit_a_format() -> None:
    with pytest.raises(ValueError, match="groups of 128 do not divide 192 columns; choose g32 or g64 or pc"):
        WeightFormat(4, 128).groups(192)
    with pytest.raises(ValueError, match="no multiple of 32"):
        WeightFormat(4, None).groups(100)
    with pytest.raises(ValueError, match="2 equal parts"):
        packed_arrays(WeightFormat(8, None), 33, 64, 2)
    with pytest.raises(ValueError, match="does not hold 33 rows"):
        int8.unpack(np.zeros((2, 4, 64), np.uint8), 33)
    with pytest.raises(ValueError, match="not a multiple of 32"):
        int4.pack(np.zeros((16, 48), np.uint8))


def test_bits_per_weight() -> None:
    assert scheme("w4a8").weight.bits_per_weight(4096) == 4.5
    assert scheme("w4a8-asym").weight.bits_per_weight(4096) == 4.75
    assert scheme("w4a8-min").weight.bits_per_weight(4096) == 5
    assert scheme("w4a8-2l").weight.bits_per_weight(1024) == 4.25 + 32 / 1024
    assert {scheme(name).weight.bits_per_weight(1600) for name in BASES} == {4.5, 8.01}


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**60), max_value=2.0**60)


@settings(max_examples=300)
@given(a=FLOATS, b=FLOATS, c=FLOATS)
def test_fma_rounds_once(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    got = reference.fma(*(np.array([v], np.float32) for v in (a, b, c)))[0]
    assert abs(Fraction(float(got)) - exact) <= min(
        abs(Fraction(float(np.nextafter(got, np.float32(to)))) - exact) for to in (-np.inf, np.inf)
    )


def test_fma_where_float64_alone_would_round_twice() -> None:
    a, b = np.array([2.0**-24 * (1 + 2**-23)], np.float32), np.float32(1 - 2**-23)  # the product is 2**-24 - 2**-70
    c = np.array([1 + 2**-23], np.float32)
    assert np.float32(np.float64(a[0]) * np.float64(b) + np.float64(c[0])) == np.float32(1 + 2**-22)  # a tie, to even
    assert reference.fma(a, b, c)[0] == c[0]  # in truth just below the tie


@pytest.mark.parametrize(
    ("fmt", "activation"),
    [
        (fmt, activation)
        for fmt in FORMATS
        for activation in ("limbs", "int8", "int8-group", "f32")
        if activation != "int8-group" or (fmt.group and not fmt.two_level)
    ],
    ids=str,
)
def test_reference_is_near_the_product_of_what_the_codes_mean(fmt: WeightFormat, activation: str) -> None:
    rng = np.random.default_rng(1)
    w, x = random_matrix(fmt, 20, 192), rng.standard_normal((3, 192), dtype=np.float32)
    bias, residual = rng.standard_normal(20, dtype=np.float32), rng.standard_normal((3, 20), dtype=np.float32)
    seen = x if activation == "f32" else reference.quantize_activations(x, activation, fmt.group_size(192)).dequantize()
    expected = seen.astype(np.float64) @ w.dequantize().T.astype(np.float64) + bias + residual
    y = reference.linear(x, w, activation, bias, residual, ("bias", "residual"))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("activation", "error"), [("limbs", 0.5 / 16256), ("int8", 0.5 / 127), ("int8-group", 0.5 / 127)]
)
def test_quantized_activations(activation: str, error: float) -> None:
    x = np.random.default_rng(2).standard_normal((5, 256), dtype=np.float32)
    x[1], x[2, 3] = 0, 1e30
    x[3, 7] = -np.abs(x[3]).max() * 2
    q = reference.quantize_activations(x, activation, 64)
    assert q.codes.dtype == np.int8
    assert q.codes.min() >= -127
    peak = np.abs(x.reshape(5, q.scales.shape[1], -1)).max(-1)
    np.testing.assert_allclose(q.scales, peak * (2 * error), rtol=1e-6)
    wrong = np.abs(q.dequantize() - x).reshape(*q.scales.shape, -1).max(-1)
    assert (wrong <= peak * error * (1 + 1e-3)).all()
    assert not q.codes[:, 1].any()


def test_sums_are_exact_at_the_extremes() -> None:
    fmt = WeightFormat(4, 32, two_level=True)
    columns = 8192
    w = QuantizedMatrix(
        fmt,
        np.zeros((16, columns), np.uint8),
        np.full((16, columns // 32), 15, np.uint8),
        None,
        np.ones(16, np.float32),
    )
    rows = reference.QuantizedRows(np.full((1, 1, columns), 127, np.int8), np.ones((1, 1), np.float32))
    assert (reference.matmul_quantized(rows, w) == np.float32(-8 * 15 * 127 * columns)).all()
