"""Activation functions, tanh and norms in 16 lanes: their errors, their ends, and the same bits wherever an element stands."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from heddle.ir_passes import dialect
from heddle.schedules import epilogue as epilogues
from heddle.schedules.activations import ACTIVATIONS, activation
from heddle.schedules.catalog import activation as activation_kernel
from heddle.schedules.catalog import gated, layer_norm, rms_norm, softcap
from heddle.schedules.compat import PrimFunc, nn, tvm
from heddle.schedules.target import TargetProfile
from tests.cpu_targets import ONCE, TARGETS

TINY = float(np.finfo(np.float32).tiny)
ENDS = np.array([0.0, -0.0, TINY, -TINY, 5.5, -5.5, 9, -9, 20, -20, 88, -88, 1e4, -1e4], np.float32)


@functools.cache
def values() -> np.ndarray:
    """The ends, then values of all magnitudes of both signs up to 20."""
    small = np.logspace(-6, 0, 500)
    return np.concatenate([ENDS, np.linspace(-20, 20, 20_001), small, -small]).astype(np.float32)


@functools.cache
def compiled(func: PrimFunc, target: TargetProfile):
    return tvm.compile(func.with_attr("global_symbol", "main"), target=target.tvm_target())["main"]


def call(func: PrimFunc, target: TargetProfile, *arrays: np.ndarray) -> np.ndarray:
    out = tvm.runtime.tensor(np.full_like(arrays[0], np.nan))
    compiled(func, target)(*[tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays], out)
    return out.numpy()


def evaluate(kind: str, x: np.ndarray, target: TargetProfile = TARGETS[-1]) -> np.ndarray:
    return call(activation_kernel(features=x.size, kind=kind, target=target), target, x[None])[0]


# (kind, from which x on, error relative to the result)
RELATIVE = [
    ("relu", -2e4, 0.0),
    ("relu2", -2e4, 6e-8),
    ("silu", -80, 4e-7),
    ("gelu", -3, 6e-7),
    ("gelu", -5.5, 2e-6),
    ("gelu_tanh", -3, 1e-6),
    ("gelu_tanh", -5.5, 4e-6),
]


@pytest.mark.parametrize(("kind", "first", "limit"), RELATIVE)
def test_relative_error(kind: str, first: float, limit: float) -> None:
    x = values()[values() >= first]
    got, want = evaluate(kind, x).astype(np.float64), activation(kind).reference(x.astype(np.float64))
    np.testing.assert_array_less(np.abs(got - want), limit * np.abs(want) + 2 * TINY)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_absolute_error_is_an_ulp_of_one_or_of_the_input(kind: str) -> None:
    x = values().astype(np.float64)
    error = np.abs(evaluate(kind, values()) - activation(kind).reference(x))
    bound = 2e-7 * np.maximum(1, np.abs(x) ** (2 if kind == "relu2" else 1))
    assert (error <= bound).all(), x[np.argmax(error / bound)]


def test_tanh_is_right_in_every_magnitude() -> None:
    x = values()
    got = call(softcap(features=x.size, cap=1.0, target=TARGETS[-1]), TARGETS[-1], x[None])[0].astype(np.float64)
    want = np.tanh(x.astype(np.float64))
    np.testing.assert_array_less(np.abs(got - want), 5e-7 * np.abs(want) + 2 * TINY)
    assert np.abs(got).max() == 1


@pytest.mark.parametrize("target", ONCE)
def test_an_element_has_the_same_bits_anywhere(target: TargetProfile) -> None:
    """In a whole vector, in the rest of a row, in other company, on every target."""
    x = values()[-3:-250:-2].copy()
    for kind in ACTIVATIONS:
        want = evaluate(kind, x, TARGETS[0])
        for first, end in ((0, 16), (0, 7), (5, 38)):
            np.testing.assert_array_equal(evaluate(kind, x[first:end], target), want[first:end])


@pytest.mark.parametrize("target", ONCE)
@pytest.mark.parametrize("make", [rms_norm, layer_norm])
def test_a_head_has_the_bits_of_a_row(make, target: TargetProfile) -> None:
    """Norms of heads are norms of rows; neither the other heads nor the other rows matter."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((6, 3 * 40), dtype=np.float32), rng.standard_normal(40, dtype=np.float32)
    heads = call(make(features=120, groups=3, eps=1e-6, target=target), target, x, weight)
    rows = call(make(features=40, eps=1e-6, target=TARGETS[0]), TARGETS[0], x.reshape(-1, 40), weight)
    np.testing.assert_array_equal(heads, rows.reshape(heads.shape))
    own = call(make(features=120, groups=3, shared=False, eps=1e-6, target=target), target, x, np.tile(weight, 3))
    np.testing.assert_array_equal(own, heads)
    alone = call(make(features=120, groups=3, eps=1e-6, target=target), target, x[4:5], weight)
    np.testing.assert_array_equal(alone, heads[4:5])


def test_a_layer_norm_far_from_zero_keeps_its_digits() -> None:
    x = (1000 + np.random.default_rng(0).standard_normal((4, 300))).astype(np.float32)
    got = call(layer_norm(features=300, eps=1e-5, target=TARGETS[-1]), TARGETS[-1], x, np.ones(300, np.float32))
    wide = x.astype(np.float64) - x.astype(np.float64).mean(1, keepdims=True)
    np.testing.assert_allclose(got, wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-5), rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("epilogue", "words"),
    [
        (("swish",), "there is no 'swish'; choose of bias, relu, silu"),
        (("gated:tanh",), "there is no 'gated:tanh'"),
        (("residual", "bias"), "the order is bias, activation, scale, residual"),
        (("gelu", "gated:silu"), "each once at most"),
    ],
)
def test_epilogues_that_do_not_exist_are_named(epilogue: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        epilogues.check(epilogue)


def test_unknown_functions_and_sizes_are_named() -> None:
    x = nn.Tensor.placeholder(["n", 40], "float32", name="x")
    with pytest.raises(ValueError, match="no activation function 'swish'; choose one of relu, silu, gelu"):
        dialect.activation(x, kind="swish")
    with pytest.raises(ValueError, match="no activation function 'mish'"):
        gated(features=8, kind="mish", target=TARGETS[0])
    weight = nn.Tensor.placeholder([30], "float32", name="weight")
    with pytest.raises(ValueError, match=r"40 features in 4 groups .* 30 elements; give it 10 .* or 40"):
        dialect.rms_norm(x, weight, eps=1e-6, groups=4)


def test_ops_that_change_nothing_are_not_emitted() -> None:
    x = nn.Tensor.placeholder(["n", 40], "float32", name="x")
    assert dialect.scale(x, 1.0) is x
    assert dialect.softcap(x, 0.0) is x
