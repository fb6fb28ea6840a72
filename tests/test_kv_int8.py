"""The int8 cache: codes and scales bit by bit, exact dot products at extreme values, and what it costs a real model."""

from __future__ import annotations

import numpy as np
import pytest

from heddle import LLM
from heddle.runtime.plans import KV_TILE, PAGE, PlanSequence
from heddle.runtime.plans.cache import STORAGE, cache_record
from heddle.schedules.compat import finish, tirx, tvm
from heddle.schedules.cpu.attention_reference import read_cache
from heddle.schedules.cpu.kv_int8 import read_int8, write_int8
from heddle.schedules.cpu.quantize import quantize_rows
from heddle.schedules.dot import dot4
from heddle.schedules.emit import buffer, parallel, prim_func, store
from heddle.schedules.target import TargetProfile
from heddle.schedules.vector import lanes, splat
from tests.conftest import ROOT
from tests.cpu_targets import TARGETS
from tests.test_attention_variants import Layer, run, scattered


def test_rows_are_scaled_by_their_largest_magnitude() -> None:
    x = np.array(
        [[1, -2, 0.5, 127], [0, 0, 0, 0], [1e-38, 0, 0, 0], [-3e38, 3e38, 0, 1], [0.5, 1.5, 2.5, 127]], np.float32
    )
    codes, scales = quantize_rows(x)
    assert codes.tolist() == [[1, -2, 0, 127], [0] * 4, [0] * 4, [-127, 127, 0, 0], [0, 2, 2, 127]]
    assert scales[0] == np.float32(127) * np.float32(1 / 127)
    codes, scales = quantize_rows(np.array([[np.nan, 1]], np.float32))
    assert codes.tolist() == [[0, 0]]
    assert np.isnan(scales[0]), "a NaN must show"


@pytest.mark.parametrize(("key_dim", "value_dim"), [(64, 64), (70, 33), (3, 128)])
def test_records_hold_what_was_written(key_dim: int, value_dim: int) -> None:
    rng = np.random.default_rng(0)
    size = cache_record("int8", key_dim, value_dim).size
    assert size % 64 == 0
    records = rng.integers(0, 256, (5, 2, size), np.uint8)
    pages, slots = np.array([4, 4, 0, 2]), np.array([0, 15, 7, 3])
    k, v = (rng.standard_normal((4, 2, d)).astype(np.float32) for d in (key_dim, value_dim))
    before = records.copy()
    write_int8(records, pages, slots, k, v)
    read = read_int8(records, pages, slots, key_dim, value_dim)
    for got, x in zip(read, (k, v), strict=True):
        assert (np.abs(got - x) <= np.abs(x).max(-1, keepdims=True) / 253).all()
    changed = (records != before).sum()
    assert changed <= 4 * 2 * (-(-key_dim // 4) * 4 + value_dim + 8)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_dot_products_are_exact_at_the_extremes(target: TargetProfile) -> None:
    n = tirx.Var("n", "int64")
    u, s, out = (buffer(name, (n, 16), "int32", align=64) for name in ("u", "s", "out"))
    with prim_func([u, s, out]) as made, parallel(n) as i:
        store(out, (i, lanes(0)), dot4(splat(tirx.IntImm("int32", 7)), u[i, lanes(0)], s[i, lanes(0)], target))
    kernel = tvm.compile(finish(made[0]).with_attr("global_symbol", "main"), target=target.tvm_target())["main"]
    rng = np.random.default_rng(0)
    unsigned = rng.integers(0, 256, (50, 64), np.uint8)
    signed = rng.integers(-128, 128, (50, 64)).astype(np.int8)
    unsigned[:3], signed[0], signed[1], signed[2] = 255, 127, -128, 1
    result = tvm.runtime.tensor(np.zeros((50, 16), np.int32))
    kernel(*(tvm.runtime.tensor(a.view(np.int32)) for a in (unsigned, signed)), result)
    products = unsigned.astype(np.int32) * signed.astype(np.int32)
    np.testing.assert_array_equal(result.numpy(), 7 + products.reshape(50, 16, 4).sum(-1))


def rounded_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """One query [d] over k, v [tokens, d] that stand for codes and scales, with the roundings of the kernel and no others."""
    codes, scale = quantize_rows(q)
    scores = k @ (codes * np.float64(scale))
    weights = np.exp(scores - scores.max())
    value_scales = np.abs(v).max(-1) / 127
    out = np.zeros(v.shape[1])
    for begin in range(0, len(k), KV_TILE):
        tile = slice(begin, begin + KV_TILE)
        products = weights[tile] * value_scales[tile]
        step = products.max() / 255
        out += (np.floor(products / step + 0.5) * step) @ (v[tile] / value_scales[tile, None])
    return out / weights.sum()


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_attention_rounds_queries_once_and_weights_by_tile(target: TargetProfile) -> None:
    layer = Layer(4, 2, 72, "int8", (("value_dim", 40),))
    lengths, news = (2500, 300, 60), (1, 5, 60)
    tables = scattered(lengths)
    sequences = [PlanSequence(t, n - new, new) for t, n, new in zip(tables, lengths, news, strict=True)]
    cache = layer.pool(sum(map(len, tables)))
    out, q, positions, _ = run(layer, sequences, cache, target)
    got, want = out.reshape(-1, 4, 40), np.empty((len(out), 4, 40))
    owner = np.repeat(np.arange(3), news)
    for row, head in np.ndindex(len(out), 4):
        token = np.arange(positions[row] + 1)
        k, v = read_cache(cache, tables[owner[row]][token // PAGE], token % PAGE, np.int64(0), 2, 72, 40, "int8")
        query = q[row].reshape(4, 72)[head] * np.float32(72**-0.5)
        want[row, head] = rounded_attention(query, k[:, head // 2], v[:, head // 2])
    assert np.abs(got - want).max() <= 1e-3 * np.abs(want).max()  # a weight near the middle of two codes may be either


def test_unknown_types_are_refused() -> None:
    with pytest.raises(ValueError, match=f"unknown kv_dtype='int4'; choose one of {', '.join(STORAGE)}"):
        cache_record("int4", 64, 64)
    assert cache_record("float16", 64, 32).size == PAGE * 96


def test_perplexity_stays_within_half_a_percent() -> None:
    text = (ROOT / "examples" / "tinydoc" / "README.md").read_text() + (ROOT / "docs" / "architecture.md").read_text()
    losses = []
    for kv_dtype in ("float32", "int8"):
        llm = LLM(ROOT / "examples" / "tinydoc", kv_dtype=kv_dtype)
        ids = np.array(llm.tokenizer.encode(text)[:1000])
        logits = llm.forward([ids.tolist()])[0].astype(np.float64)[:-1]
        top = logits.max(-1, keepdims=True)
        log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(-1))
        losses.append(float((log_sum - logits[np.arange(len(logits)), ids[1:]]).mean()))
    assert losses[0] != losses[1]
    assert abs(np.exp(losses[1] - losses[0]) - 1) < 0.005
