"""Attention as a program: over every format of the library, merged from parts, and over pages like the kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.ir_passes.sparse.attention.program import (
    STEPS,
    TINY,
    attention,
    dense_operands,
    merge_states,
    paged_operands,
    paged_rows,
)
from heddle.ir_passes.sparse.attention.spec import AttentionSpec
from heddle.ir_passes.sparse.attention.variant import variant
from heddle.ir_passes.sparse.expr import substitute
from heddle.ir_passes.sparse.format import Format
from heddle.ir_passes.sparse.formats import CSR, LIBRARY, MATRIX_FORMATS, Operand, to_csr
from heddle.ir_passes.sparse.rewrites.fuse_rows import fuse_rows
from heddle.runtime.plans import PlanSequence
from heddle.schedules.compat import T, tirx, tvm
from heddle.schedules.cpu.attention_reference import attention_reference
from heddle.schedules.target import PROFILES
from tests.sparse.cases import matrices
from tests.sparse.tools import build
from tests.test_attention_variants import Layer, run, scattered

HEADS, KV_HEADS, KEY, VALUE = 4, 2, 5, 3
SIZES = {"heads": HEADS, "kv_heads": KV_HEADS, "key_dim": KEY, "value_dim": VALUE}
TOGETHER = ("balanced", "csr", "dense", "band")  # formats that have every row, its entries together
LOCAL: dict[str, bool | int] = {"D": 64, "S": 64, "P": 64, "M": True, "L": True, "A": True}


def score(raw: Any) -> Any:
    return T.float32(3.0) * tirx.tanh(raw * T.float32(0.2))


@functools.cache
def kernel(name: str, fused: bool) -> Callable[..., None]:
    """Attention over a format of the library: one compilation serves every matrix."""
    m, n = (tirx.Var(v, "int64") for v in "mn")
    fmt = MATRIX_FORMATS[name].symbolic(m, n, **LIBRARY[name].params)
    depth = (2 if name == "balanced" else 1) if fused else None
    program = attention(fmt, (m, n), dense_operands(n, KV_HEADS, KEY, VALUE), score=score, depth=depth, **SIZES)
    return build(fuse_rows(program, STEPS, depth, LOCAL) if depth else program)


def call(
    name: str, operand: Operand, arrays: Sequence[np.ndarray], fused: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """O and Z; everything between begins as NaN."""
    m, entries = operand.shape[0], (*operand.values.shape, HEADS)
    between = [] if fused else [entries, entries, (m, HEADS), entries, (m, HEADS), (m, HEADS, VALUE)]
    outs = [tvm.runtime.tensor(np.full(s, np.nan, np.float32)) for s in (*between, (m, HEADS, VALUE), (m, HEADS))]
    kernel(name, fused)(*map(tvm.runtime.tensor, (*operand.arrays, *arrays)), *outs)
    return outs[-2].numpy(), outs[-1].numpy()


def expected(mask: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """O where rows have entries, else 0, in float64."""
    k, v = (np.repeat(x, HEADS // KV_HEADS, axis=1) for x in (k, v))
    scores = 3 * np.tanh(np.einsum("ihd,jhd->ijh", q, k, dtype=np.float64) * 0.2)
    weights = np.where(mask[:, :, None], np.exp(scores), 0)
    return np.einsum("ijh,jhd->ihd", weights, v) / np.maximum(weights.sum(1), TINY)[:, :, None]


def operands(shape: tuple[int, int], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = (shape[0], HEADS, KEY), (shape[1], KV_HEADS, KEY), (shape[1], KV_HEADS, VALUE)
    return [rng.standard_normal(s, np.float32) for s in shapes]


def in_format(name: str, a: CSR) -> tuple[Operand, np.ndarray]:
    """A matrix in a format, and which of its entries the format stores: its mask."""
    operand = MATRIX_FORMATS[name].convert(a, **LIBRARY[name].params)
    ones = Operand(operand.fmt, operand.arrays, np.ones_like(operand.values), operand.shape)
    return operand, ones.to_dense() != 0


@pytest.mark.parametrize("name", MATRIX_FORMATS)
def test_every_format_is_a_mask(name: str) -> None:
    @given(matrices(name), st.integers(0, 99))
    @settings(max_examples=20, deadline=None)
    def check(a: CSR, seed: int) -> None:
        operand, mask = in_format(name, a)
        q, k, v = operands(operand.shape, seed)
        out, lse = call(name, operand, (q, k, v))
        np.testing.assert_allclose(out, expected(mask, q, k, v), atol=2e-5)
        assert np.array_equal(lse < -1e30, np.repeat(~mask.any(1)[:, None], HEADS, 1))
        if name in TOGETHER:
            for got, want in zip(call(name, operand, (q, k, v), fused=True), (out, lse), strict=True):
                np.testing.assert_array_equal(got, want)

    check()


def test_a_format_that_stores_all_is_no_mask() -> None:
    a = CSR.from_dense(np.ones((9, 8), np.float32))
    arrays = operands(a.shape, 0)
    want, want_lse = call("dense", in_format("dense", a)[0], arrays)
    for name in MATRIX_FORMATS:
        if name == "band":
            continue  # eight columns are wider than its diagonals
        square = CSR.from_dense(np.ones((8, 8), np.float32))
        operand = in_format(name, square)[0]
        q, k, v = (x[:8] for x in arrays)
        out, lse = call(name, operand, (q, k, v))
        np.testing.assert_allclose(out, want[:8], atol=1e-6)
        np.testing.assert_allclose(lse, want_lse[:8], atol=1e-5)


@given(matrices("csr"), st.integers(0, 99), st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_states_of_parts_merge_to_that_of_the_whole(a: CSR, seed: int, cut: float) -> None:
    """A cascade: prefix and suffix of the columns, and any other division; parts may be empty."""
    arrays = operands(a.shape, seed)
    want = call("csr", to_csr(a), arrays)
    for keep in (a.indices < cut * a.shape[1], np.random.default_rng(seed).random(a.nnz) < cut):
        states = [call("csr", to_csr(a.where(part)), arrays) for part in (keep, ~keep)]
        got = [tvm.runtime.tensor(np.full_like(x, np.nan)) for x in want]
        inputs = [x for state in states for x in state]
        merge()(*map(tvm.runtime.tensor, inputs), *got)
        for x, y in zip(got, want, strict=True):
            np.testing.assert_allclose(x.numpy(), y, atol=1e-5, rtol=1e-5)


@functools.cache
def merge() -> Callable[..., None]:
    return build(merge_states(tirx.Var("m", "int64"), HEADS, VALUE))


LAYERS = {
    "grouped": Layer(4, 2, 32, "float16"),
    "window and cap": Layer(4, 2, 40, "float32", (("window", 33), ("softcap", 5.0))),
    "sinks": Layer(4, 1, 32, "float16", (("window", 50), ("sinks", 5))),
    "lookahead": Layer(2, 2, 32, "float32", (("window", 21), ("lookahead", 20))),
    "shared values": Layer(4, 1, 32, "float16", (("value_dim", 16), ("shared_values", True))),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_the_kernel_computes_the_program_over_pages(layer: Layer) -> None:
    spec, program = over_pages(layer)
    lengths = [(160, 3), (40, 40), (17, 1)]
    tables = scattered([n for n, _ in lengths])
    sequences = [PlanSequence(t, n - new, new) for t, (n, new) in zip(tables, lengths, strict=True)]
    cache = layer.pool(sum(map(len, tables)))
    target = PROFILES["x86-64-v3"]
    out, q, positions, plan = run(layer, sequences, cache, target)
    n, layout = len(q), layer.layout
    limit = plan[layout.limit : layout.limit + n]
    first = np.maximum(positions - spec.window + 1, 0) if spec.window else 0 * positions
    last = np.minimum(positions + spec.lookahead, limit) if spec.lookahead >= 0 else limit
    indptr = plan[layout.page_indptr : layout.page_indptr + len(lengths) + 1]
    table = plan[layout.pages : layout.pages + indptr[-1]]
    row_seq = plan[layout.row_seq : layout.row_seq + n]
    got = tvm.runtime.tensor(np.full((n, layer.heads, layer.value_dim), np.nan, np.float32))
    lse = tvm.runtime.tensor(np.full((n, layer.heads), np.nan, np.float32))
    arrays = indptr, row_seq, table, first.astype(np.int32), last, q.reshape(n, layer.heads, -1), cache
    build(program)(*(tvm.runtime.tensor(np.ascontiguousarray(x)) for x in arrays), got, lse)
    np.testing.assert_allclose(got.numpy().reshape(out.shape), out, atol=2e-5)
    [reference] = attention_reference(q, positions, plan, cache, np.int64(0), **layer.params)
    np.testing.assert_allclose(got.numpy().reshape(out.shape), reference, atol=2e-5)


def over_pages(layer: Layer) -> tuple[AttentionSpec, Any]:
    """The layer's program over pages, one pass a row."""
    params = {k: v for k, v in layer.params.items() if k not in ("max_tokens", "max_seqs", "head_dim", "tree_words")}
    spec = AttentionSpec(**{**params, "value_dim": layer.value_dim}, key_dim=layer.head_dim, layout=layer.layout)
    rows, ends, pages, entries = (tirx.Var(x, "int64") for x in ("rows", "ends", "pages", "entries"))
    meaning = variant(spec, None)
    tokens = 1 << 20
    fmt: Format = paged_rows(rows, ends - 1, pages, entries, tokens, meaning)
    program = attention(
        fmt,
        (rows, tokens, pages, 16),
        paged_operands(spec, pages, 0),
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        key_dim=spec.key_dim,
        value_dim=spec.value_dim,
        score=lambda raw: substitute(meaning.score, {meaning.raw: raw * T.float32(spec.scale)}),
        depth=1,
    )
    return spec, fuse_rows(program, STEPS, 1, LOCAL | {"D": 256, "S": 256, "P": 256})
