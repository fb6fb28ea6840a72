"""Variants of attention against a float64 softmax, and divisions of its work against each other, bit by bit."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from heddle.ir_passes.sparse.attention.kernel import attention, states_shape
from heddle.runtime.plans import PAGE, Division, PlanLayout, PlanSequence, build_plan
from heddle.runtime.plans.layout import MERGES
from heddle.schedules.compat import tvm
from heddle.schedules.cpu.attention_reference import attention_reference
from heddle.schedules.cpu.kv_cache import random_cache
from heddle.schedules.target import TargetProfile
from tests.cpu_targets import ONCE, TARGETS
from tests.test_attention import expect_equal, use_threads

LIMITS = {"max_tokens": 256, "max_seqs": 24}


@dataclasses.dataclass(frozen=True)
class Layer:
    """The static side of an attention kernel."""

    heads: int
    kv_heads: int
    head_dim: int
    kv_dtype: str = "float32"
    variants: tuple[tuple[str, Any], ...] = ()

    @property
    def params(self) -> dict[str, Any]:
        params = {"layers": 1, "heads": self.heads, "kv_heads": self.kv_heads, "head_dim": self.head_dim}
        return params | {"kv_dtype": self.kv_dtype, "scale": self.head_dim**-0.5, **LIMITS, **dict(self.variants)}

    @property
    def layout(self) -> PlanLayout:
        words = dict(self.variants).get("tree_words", 0)
        return PlanLayout.of(**LIMITS, heads=self.heads, kv_heads=self.kv_heads, tree_words=words)

    @property
    def value_dim(self) -> int:
        return dict(self.variants).get("value_dim", 0) or self.head_dim

    def pool(self, pages: int) -> np.ndarray:
        """A full cache."""
        stored_values = 0 if dict(self.variants).get("shared_values") else self.value_dim
        rng = np.random.default_rng(1)
        return random_cache(rng, pages, 1, self.kv_heads, self.head_dim, stored_values, self.kv_dtype)

    def expect(self, out: np.ndarray, *arrays: np.ndarray) -> None:
        """`out` is attention by its definition: of queries, positions, plan and cache (and logits of sinks)."""
        [want] = attention_reference(*arrays[:4], np.int64(0), *arrays[4:], **self.params)
        tolerance = 3e-2 if self.kv_dtype == "int8" else 2e-5
        assert np.abs(out - want).max() <= tolerance * np.abs(want).max()


@functools.cache
def kernel(layer: Layer, target: TargetProfile, rows: str = "any") -> Callable[..., None]:
    func = attention(target=target, rows=rows, **layer.params)
    return tvm.compile(func.with_attr("global_symbol", "main"), target=target.tvm_target())["main"]


def run(
    layer: Layer,
    sequences: Sequence[PlanSequence],
    cache: np.ndarray,
    target: TargetProfile,
    division: Division | None = None,
    sink_logits: np.ndarray | None = None,
    rows: str = "any",
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Result, queries, positions and plan of one step over a full cache."""
    layout = layer.layout
    plan = np.zeros(layout.size(sum(len(s.pages) for s in sequences)), np.int32)
    _, positions = build_plan(layout, plan, sequences, rows_only=rows == "row", division=division)
    q = np.random.default_rng(2).standard_normal((len(positions), layer.heads * layer.head_dim), np.float32) * 2
    out = tvm.runtime.tensor(np.full((len(positions), layer.heads * layer.value_dim), np.nan, np.float32))
    [shape] = states_shape(**layer.params)
    extra = [] if sink_logits is None else [tvm.runtime.tensor(sink_logits)]
    states = tvm.runtime.tensor(np.full(shape, np.nan, np.float32))
    kernel(layer, target, rows)(*map(tvm.runtime.tensor, (q, positions, plan, cache)), 0, *extra, out, states)
    return out.numpy(), q, positions, plan


def scattered(lengths: Sequence[int], shared: Sequence[tuple[Sequence[int], int]] = ()) -> list[np.ndarray]:
    """Page tables for these lengths; `shared` gives sequences that have their first n pages in common."""
    counts = [-(-n // PAGE) for n in lengths]
    order = np.random.default_rng(3).permutation(sum(counts)).astype(np.int32)
    tables = np.split(order, np.cumsum(counts)[:-1])
    for members, pages in shared:
        for i in members[1:]:
            tables[i] = np.concatenate([tables[members[0]][:pages], tables[i][pages:]])
    return tables


VARIANTS = {
    "softcap": Layer(4, 2, 64, "float16", (("softcap", 5.0),)),
    "window": Layer(4, 2, 40, "float32", (("window", 33),)),
    "sinks": Layer(4, 2, 64, "float16", (("window", 50), ("sinks", 5))),
    "many sinks": Layer(4, 1, 32, "float32", (("window", 40), ("sinks", 200))),
    "lookahead": Layer(3, 1, 64, "bfloat16", (("window", 21), ("lookahead", 20))),
    "values are narrower": Layer(8, 2, 96, "float16", (("value_dim", 64),)),
    "values are wider": Layer(4, 4, 32, "float32", (("value_dim", 72),)),
    "values are a view of keys": Layer(8, 1, 72, "float16", (("value_dim", 40), ("shared_values", True))),
    "one head of 256": Layer(8, 1, 256, "float16"),
    "sinks, capped": Layer(14, 2, 64, "float16", (("window", 60), ("sinks", 4), ("softcap", 3.0))),
    "codes, a window on both sides": Layer(3, 3, 112, "int8", (("window", 21), ("lookahead", 20))),
    "codes, sinks, capped": Layer(
        8, 2, 33, "int8", (("value_dim", 50), ("window", 60), ("sinks", 4), ("softcap", 3.0))
    ),
}


@pytest.mark.parametrize("target", ONCE)
@pytest.mark.parametrize("layer", VARIANTS.values(), ids=VARIANTS)
def test_a_variant_is_its_definition(layer: Layer, target: TargetProfile) -> None:
    lengths = [(2100, 3), (40, 40), (300, 1), (17, 17), (600, 9)]
    tables = scattered([n for n, _ in lengths])
    sequences = [PlanSequence(t, n - new, new) for t, (n, new) in zip(tables, lengths, strict=True)]
    cache = layer.pool(sum(map(len, tables)))
    out, q, positions, plan = run(layer, sequences, cache, target)
    layer.expect(out, q, positions, plan, cache)


@pytest.mark.parametrize("target", ONCE)
@pytest.mark.parametrize("kv_dtype", ["float32", "int8"])
def test_pages_between_sinks_and_window_may_be_gone(kv_dtype: str, target: TargetProfile) -> None:
    layer = Layer(4, 2, 64, kv_dtype, (("window", 40), ("sinks", 5)))
    lengths, news = (120, 128, 300, 2300), (1, 7, 1, 20)
    tables = scattered(lengths)
    sequences = [PlanSequence(t, n - new, new) for t, n, new in zip(tables, lengths, news, strict=True)]
    cache = layer.pool(sum(map(len, tables)))
    whole, q, positions, plan = run(layer, sequences, cache, target)
    layer.expect(whole, q, positions, plan, cache)
    for s in sequences:
        s.pages[1 : (s.start - 39) // PAGE] = 1 << 30
    expect_equal([run(layer, sequences, cache, target)[0]], [whole])


@pytest.mark.parametrize("target", ONCE)
@pytest.mark.parametrize("name", ["softcap", "window", "lookahead", "values are wider", "many sinks"])
def test_a_micro_kernel_has_the_bits_of_its_expressions(name: str, target: TargetProfile) -> None:
    layer = VARIANTS[name]
    lowered = dataclasses.replace(layer, variants=(*layer.variants, ("body", "expressions")))
    tables = scattered([2100, 300, 30])
    sequences = [PlanSequence(t, n - new, new) for t, n, new in zip(tables, (2100, 300, 30), (1, 20, 30), strict=True)]
    cache = layer.pool(sum(map(len, tables)))
    expect_equal([run(layer, sequences, cache, target)[0]], [run(lowered, sequences, cache, target)[0]])


@pytest.mark.parametrize("target", ONCE)
@pytest.mark.parametrize(("window", "kv_dtype"), [(0, "float32"), (19, "float32"), (0, "int8")])
def test_encoders_see_both_sides(window: int, kv_dtype: str, target: TargetProfile) -> None:
    variants = (("window", window + 1), ("lookahead", window)) if window else ()
    layer = Layer(4, 4, 32, kv_dtype, variants)
    tables = scattered([70, 9, 128])
    sequences = [PlanSequence(t, 0, n, causal=False) for t, n in zip(tables, (70, 9, 128), strict=True)]
    cache = layer.pool(sum(map(len, tables)))
    out, q, positions, plan = run(layer, sequences, cache, target)
    layer.expect(out, q, positions, plan, cache)
    assert positions.tolist() == [*range(70), *range(9), *range(128)]
    causal = run(layer, [PlanSequence(t, 0, n) for t, n in zip(tables, (70, 9, 128), strict=True)], cache, target)[0]
    assert np.abs(causal - out).max() > 0.1 * np.abs(out).max()


@pytest.mark.parametrize("target", ONCE)
def test_sink_logits_join_the_denominator(target: TargetProfile) -> None:
    layer = Layer(6, 2, 64, "float16", (("sink_logits", True),))
    tables = scattered([2500, 60])
    sequences = [PlanSequence(tables[0], 2499, 1), PlanSequence(tables[1], 20, 40)]
    cache = layer.pool(sum(map(len, tables)))
    logits = np.array([-30, -1, 0, 1.5, 4, 90], np.float32)
    out, q, positions, plan = run(layer, sequences, cache, target, sink_logits=logits)
    layer.expect(out, q, positions, plan, cache, logits)
    split = run(layer, sequences, cache, target, Division(workers=3), logits)[0]
    expect_equal([split], [out])


@pytest.mark.parametrize("target", ONCE)
@pytest.mark.parametrize(("window", "kv_dtype"), [(0, "float16"), (64, "float32"), (0, "int8")])
def test_a_tree_of_drafts_sees_its_ancestors(window: int, kv_dtype: str, target: TargetProfile) -> None:
    layer = Layer(4, 2, 64, kv_dtype, (("tree_words", 2), ("window", window)))
    rng = np.random.default_rng(5)
    parents = np.array([-1, *(int(rng.integers(-1, i)) for i in range(1, 50))])
    tables = scattered([200, 77, 2090])
    sequences = [
        PlanSequence(tables[0], 150, 50, parents=parents),
        PlanSequence(tables[1], 70, 7),
        PlanSequence(tables[2], 2085, 5, parents=np.array([-1, 0, 0, 1, 2])),
    ]
    cache = layer.pool(sum(map(len, tables)))
    out, q, positions, plan = run(layer, sequences, cache, target)
    layer.expect(out, q, positions, plan, cache)
    assert positions[-5:].tolist() == [2085, 2086, 2086, 2087, 2087]
    # A chain is what a causal sequence is.
    chain = [PlanSequence(tables[0], 150, 50, parents=np.arange(50) - 1), *sequences[1:]]
    causal = [PlanSequence(tables[0], 150, 50), *sequences[1:]]
    expect_equal([run(layer, chain, cache, target)[0]], [run(layer, causal, cache, target)[0]])


DIVISIONS = [Division(workers=w, cascade=c) for w in (1, 2, 3, 5, 16) for c in (False, True)]


@pytest.mark.parametrize(
    "layer",
    [
        Layer(7, 1, 64, "float16"),
        Layer(8, 4, 72, "float32", (("tree_words", 1),)),
        Layer(4, 2, 64, "float16", (("window", 2500),)),
        Layer(4, 2, 64, "float16", (("window", 100), ("sinks", 4))),
        Layer(6, 2, 40, "int8", (("tree_words", 1), ("window", 3000))),
    ],
    ids=str,
)
def test_no_bit_depends_on_the_division_of_work(layer: Layer) -> None:
    """Nor on the target: decode, chunks, an encoder and, where there is room, a tree in one step."""
    lengths = [6300, 4200, 4097, 5000, 150, 4100, 2049, 2049]
    tables = scattered(lengths, [([0, 1, 2, 3], 256), ([5, 6], 128)])
    news = [1, 1, 1, 12, 3, 1, 5, 1]
    sequences = [PlanSequence(t, n - new, new) for t, n, new in zip(tables, lengths, news, strict=True)]
    sequences[4] = dataclasses.replace(sequences[4], causal=False)
    variants = dict(layer.variants)
    if "tree_words" in variants:
        sequences[6] = dataclasses.replace(sequences[6], parents=np.array([-1, 0, 0, 1, -1]))
    cache = layer.pool(sum(-(-n // PAGE) for n in lengths))
    wanted, q, positions, plan = run(layer, sequences, cache, TARGETS[0], DIVISIONS[0], rows="row")
    layer.expect(wanted, q, positions, plan, cache)
    merged = []
    for target, division in itertools.product(TARGETS, DIVISIONS):
        use_threads(min(division.workers, 4))
        division = dataclasses.replace(division, window=variants.get("window", 0), keep="sinks" in variants)
        got, _, _, plan = run(layer, sequences, cache, target, division)
        expect_equal([got], [wanted])
        merged.append(int(plan[MERGES]))
    assert merged[0] == 0
    assert max(merged) > 0
    use_threads(2)


def test_a_shared_prefix_is_read_once_for_all_rows() -> None:
    layout = PlanLayout.of(**LIMITS, heads=32, kv_heads=8)
    tables = scattered([4096 + 64] * 16, [(range(16), 256)])
    sequences = [PlanSequence(t, 4159, 1) for t in tables]
    plan = np.zeros(layout.size(sum(map(len, tables))), np.int32)
    build_plan(layout, plan, sequences, rows_only=False, division=Division(workers=2))
    tiles = plan[layout.tile : layout.tile + plan[3] * 4].reshape(-1, 4)
    assert tiles[:, 1:].tolist() == [[8, 0, 2], [8, 0, 2]]
    items = plan[layout.row_item : layout.row_item + plan[2] * 3].reshape(-1, 3)
    assert items.tolist() == [[i, 2, 3] for i in range(16)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"heads": 3}, "3 query heads do not share 2 kv heads"),
        ({"rows": "tile"}, "choose row"),
        ({"heads": 1}, "1 query heads do not share 2 kv heads"),
        ({"kv_heads": 0}, "4 query heads do not share 0 kv heads"),
        ({"head_dim": 0}, "key_dim is 0"),
        ({"value_dim": -1}, "value_dim is -1"),
        ({"kv_dtype": "int4"}, "unknown kv_dtype='int4'"),
        ({"kv_dtype": "int8", "shared_values": True}, "with keys and values apart"),
        ({"kv_dtype": "int8", "body": "expressions"}, "by their micro-kernel only"),
        ({"shared_values": True, "value_dim": 65}, "65 dimensions cannot be a view of keys of 64"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"softcap": -1.0}, r"softcap is -1\.0"),
        ({"window": -1}, "window is -1"),
        ({"lookahead": -2}, "lookahead is -2"),
        ({"sinks": 4}, "sinks=4 without a window"),
        ({"tree_words": 2, "window": 63}, "trees of up to 64 rows with window=63"),
        ({"tree_words": 1, "lookahead": 0}, "trees of up to 32 rows with window=0 and lookahead=0"),
    ],
    ids=str,
)
def test_what_has_no_kernel_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention(**{**Layer(4, 2, 64).params, "rows": "any", "target": TARGETS[0], **changed})
