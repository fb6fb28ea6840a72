"""Encoding of weights: the search for scales, slices, extreme values, errors, and the map from sites to schemes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from heddle.compiler.quant import dequantize, parse_sites, quantize
from heddle.compiler.quant.encode import encode
from heddle.runtime.errors import HeddleError
from heddle.schedules.layouts.quantized import QuantizedMatrix, packed_arrays
from heddle.schedules.layouts.scheme import WeightFormat, scheme
from tests.test_quant_layouts import FORMATS

SITES = ["embed", *(f"layers.{i}.{s}" for i in range(2) for s in ("attn.q", "mlp.gate", "mlp.down")), "lm_head"]


def random_weights(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Heavy tails, as real weights have."""
    return np.random.default_rng(seed).standard_t(4, (rows, columns)).astype(np.float32) * np.float32(0.02)


def squared_error(w: np.ndarray, q: QuantizedMatrix) -> np.ndarray:
    """Per group (per channel with two-level scales, whose channel scale is chosen for all groups together), float64."""
    off = (q.dequantize().astype(np.float64) - w) ** 2
    return off.reshape(len(w), 1 if q.format.two_level else q.scales.shape[1], -1).sum(-1)


@settings(max_examples=30, deadline=None)
@given(
    w=arrays(np.float32, (3, 64), elements=st.floats(-(2.0**15), 2.0**15, width=32)),
    fmt=st.sampled_from(FORMATS),
)
def test_search_is_never_worse_than_rounding_to_nearest(w: np.ndarray, fmt: WeightFormat) -> None:
    found, plain = (squared_error(w, encode(w, fmt, search=s)) for s in (True, False))
    assert (found <= plain * (1 + 1e-4) + 1e-12).all()


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_search_gains_on_real_shapes_of_weights(fmt: WeightFormat) -> None:
    w = random_weights(64, 1024)
    found, plain = (squared_error(w, encode(w, fmt, search=s)).sum() for s in (True, False))
    assert found < plain * (0.95 if fmt.bits == 4 else 1.0001)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_plain_rounding_errs_by_half_a_step(fmt: WeightFormat) -> None:
    w = random_weights(48, 192)
    q = encode(w, fmt, search=False)
    step = np.abs(q.scales.astype(np.float32)) * (1 if q.channels is None else q.channels[:, None])
    off = np.abs(q.dequantize() - w).reshape(*step.shape, -1).max(-1)
    steps = np.full(step.shape, 0.55 if fmt.symmetric else 1.05)  # a zero point rounds by half a step too
    if fmt.two_level:  # a group's scale is half a unit too small at worst: that clips its largest weights
        steps += (7 if fmt.symmetric else 15) * 0.5 / q.scales
    assert (off <= step * steps + np.abs(w).max() * 1e-3).all()


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize(("rows", "parts"), [(1, 1), (17, 1), (97, 1), (2 * 49, 2)])
def test_slices_change_no_bit(fmt: WeightFormat, rows: int, parts: int) -> None:
    w = random_weights(rows, 192)
    whole = quantize(w, fmt, parts=parts, slice_tiles=1000)
    assert {k: (a.shape, a.dtype) for k, a in whole.items()} == packed_arrays(fmt, rows, 192, parts)
    for tiles in (1, 2, None):
        sliced = quantize(w, fmt, parts=parts, slice_tiles=tiles)
        for name, array in whole.items():
            np.testing.assert_array_equal(sliced[name], array, err_msg=name)
    direct = encode(w, fmt).pack(parts)
    for name, array in whole.items():
        np.testing.assert_array_equal(direct[name], array, err_msg=name)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_merged_parts_are_encoded_as_if_alone(fmt: WeightFormat) -> None:
    w = random_weights(2 * 21, 64)
    both = dequantize(quantize(w, fmt, parts=2), fmt, 42, parts=2)
    alone = [dequantize(quantize(part, fmt), fmt, 21) for part in np.split(w, 2)]
    np.testing.assert_array_equal(both, np.concatenate(alone))


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_codes_stay_in_range_and_zeros_stay_zero(fmt: WeightFormat) -> None:
    w = random_weights(20, 192)
    w[3], w[4, :64] = 0, 0
    w[5], w[6] = np.abs(w[5]), -np.abs(w[6])
    w[7] = 0
    w[7, 9] = 0.5
    q = encode(w, fmt)
    low, high = fmt.codes
    assert q.codes.min() >= low
    assert q.codes.max() <= high
    if fmt.two_level:
        assert q.scales.min() >= 1
        assert q.scales.max() <= 15
    restored = q.dequantize()
    np.testing.assert_array_equal(restored[w == 0][:192], 0)
    np.testing.assert_allclose(restored[7, 9], 0.5, rtol=0.05)
    assert not restored[3].any()
    assert not restored[4, :64].any()


def test_the_largest_weight_may_have_either_sign() -> None:
    w = random_weights(16, 32)
    w[0, 5], w[1, 5] = 0.4, -0.4  # alone at the top, it gets the code -8 by the sign of the scale
    q = encode(w, WeightFormat(4, 32))
    assert np.sign(q.scales[:2, 0]).tolist() == [-1, 1]
    np.testing.assert_allclose(q.dequantize()[:2, 5], [0.4, -0.4], rtol=0.15)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-9, 1e-6, 1e4])
def test_extreme_magnitudes(fmt: WeightFormat, scale: float) -> None:
    w = (random_weights(16, 192) * 50 * np.float32(scale)).astype(np.float32)
    if fmt.minima and scale > 1:  # a minimum is as large as a weight
        with pytest.raises(HeddleError, match=r"(?s)is too large: .*a minimum of 89678.8 exceeds float16"):
            quantize(w, fmt)
        return
    restored = dequantize(quantize(w, fmt), fmt, 16)
    assert np.isfinite(restored).all()
    assert np.abs(restored - w).max() <= np.abs(w).max() * 1.01
    if scale >= 1e-4:
        assert np.linalg.norm(restored - w) <= 0.25 * np.linalg.norm(w)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_types_are_encoded_as_their_float32_values(dtype: type) -> None:
    w = random_weights(33, 64).astype(dtype)
    narrow, wide = quantize(w, WeightFormat(4, 32)), quantize(w.astype(np.float32), WeightFormat(4, 32))
    assert all(np.array_equal(narrow[k], wide[k]) for k in wide)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_weights_that_are_not_finite_are_named(fmt: WeightFormat, value: float) -> None:
    w = random_weights(100, 64)
    w[70, 33] = value
    with pytest.raises(HeddleError, match=rf"layers\.3\.mlp\.up\[70, 33\] is not finite: {value}"):
        quantize(w, fmt, name="layers.3.mlp.up", slice_tiles=2, parts=2)


def test_weights_too_large_for_float16_scales_are_named() -> None:
    w = random_weights(40, 64)
    w[33, 7] = -1e7
    with pytest.raises(HeddleError, match=r"up\[33, 7\] is too large: -1e\+07"):
        quantize(w, WeightFormat(4, 32), name="up")
    fmt = WeightFormat(4, 32, two_level=True)  # its channel scales are float32
    np.testing.assert_allclose(dequantize(quantize(w, fmt), fmt, 40)[33, 7], -1e7, rtol=0.15)


def test_shapes_that_do_not_suit() -> None:
    w = random_weights(32, 96)
    with pytest.raises(HeddleError, match=r"up \(32, 96\) cannot be quantized to 4 bits") as error:
        quantize(w, WeightFormat(4, 64), name="up")
    assert "groups of 64 do not divide 96 columns; choose g32 or pc" in str(error.value)
    with pytest.raises(HeddleError, match="no multiple of 32"):
        quantize(w[:, :40], WeightFormat(4, None))
    with pytest.raises(HeddleError, match="3 equal parts"):
        quantize(w, WeightFormat(8, None), parts=3)
    with pytest.raises(HeddleError, match="matrices only"):
        quantize(w[0], WeightFormat(8, None))


def test_one_scheme_leaves_the_heads_at_8_bits() -> None:
    found = parse_sites("w4a8", SITES)
    assert list(found) == SITES
    assert found["layers.1.mlp.down"] == scheme("w4a8")
    assert found["lm_head"] == found["embed"] == scheme("w8a8")
    assert parse_sites("w4a16", SITES)["lm_head"] == scheme("w8a16")
    assert parse_sites("w4a16-f32", SITES)["lm_head"] == scheme("w8a16-f32")
    assert parse_sites("w4a8", SITES[1:2]) == {SITES[1]: scheme("w4a8")}  # a model without heads
    assert parse_sites("none", SITES) == {}


def test_the_most_specific_pattern_decides_in_any_order() -> None:
    quant = {"lm_head": "w8a16", "layers.*.mlp.down": "w8a8", "layers.*": "w4a8", "layers.0.attn.?": "none"}
    for items in (list(quant.items()), list(quant.items())[::-1]):
        found = parse_sites(dict(items), SITES)
        assert {site: s.name for site, s in found.items()} == {
            "layers.0.mlp.gate": "w4a8-g32",
            "layers.0.mlp.down": "w8a8-pc",
            "layers.1.attn.q": "w4a8-g32",
            "layers.1.mlp.gate": "w4a8-g32",
            "layers.1.mlp.down": "w8a8-pc",
            "lm_head": "w8a16-pc",
        }


@pytest.mark.parametrize(
    ("quant", "message"),
    [
        ("w2a2", "quant: unknown quantization scheme 'w2a2'; known are w4a16, w4a8"),
        ({"lm_head": "int4"}, r"quant\['lm_head'\]: unknown quantization scheme 'int4'"),
        ({"*": "w4a8", "layers.*.mlp.dwon": "w8a8"}, "'layers.*.mlp.dwon' matches no site"),
        ({"lm_heads": "w4a8", "layer.*": "none"}, "'lm_heads', 'layer.*' match no site"),
        ({"layers.[01].attn.q": "w4a8"}, "matches no site"),
        ({"*.mlp.*": "w4a8", "layer*": "none"}, "equally specific about the site 'layers.0.mlp.gate'"),
    ],
)
def test_wrong_maps(quant: object, message: str) -> None:
    with pytest.raises(HeddleError, match=message.replace("*", r"\*")):
        parse_sites(quant, SITES)  # type: ignore[arg-type]


def test_unmatched_patterns_come_with_the_sites_there_are() -> None:
    with pytest.raises(HeddleError, match=r"embed, layers\.\*\.attn\.q, layers\.\*\.mlp\.gate"):
        parse_sites({"foo": "w4a8"}, SITES)
