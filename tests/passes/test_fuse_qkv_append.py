"""FuseQkvAppend: norms, rotation and cache append of one attention become one kernel over the merged projection."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.ir_passes.dialect import kv_append_op, layer_norm_op, qkv_append_op, rms_norm_op, rope_op
from heddle.ir_passes.fuse_qkv_append import FuseQkvAppend
from heddle.runtime.plans import PAGE, PlanLayout, PlanSequence, build_plan
from heddle.schedules.compat import relax
from tests.ir_tools import apply, assert_equal, function, normal, run

HEADS, KV_HEADS, DIM, LAYERS = 4, 2, 16, 3
LAYOUT = PlanLayout(32, 4)
WIDTH = (HEADS + 2 * KV_HEADS) * DIM
PARAMS = [
    ("y", ["n", WIDTH], "float32"),
    ("table", ["n", DIM], "float32"),
    ("plan", ["p"], "int32"),
    ("cache", ["pages", LAYERS, KV_HEADS, 2 * PAGE * DIM], "float16"),
]
NORM = {"rms": rms_norm_op, "layer": layer_norm_op}
CACHE = {"layer": 1, "kv_heads": KV_HEADS, "head_dim": DIM, "max_tokens": 32, "max_seqs": 4}


def params(q_size=DIM, k_size=DIM):
    return [*PARAMS, ("wq", [q_size], "float32"), ("wk", [k_size], "float32")]


def attention(
    rotated=True,
    q_interleaved=False,
    k_rotated=True,
    order=(0, 1, 2),
    value_dim=DIM,
    norm="",
    groups=(HEADS, KV_HEADS),
    sizes=(DIM, DIM),
    k_eps=1e-5,
    k_norm="",
    bias=False,
    q_twice=False,
    k_used_twice=False,
    q_first=False,
):
    """Split, norms and rotations where there are any, append; a group count of 0 leaves a norm out."""

    def body(emit, y, table, plan, cache, wq, wk):
        parts = emit(relax.op.split(y, [HEADS * DIM, (HEADS + KV_HEADS) * DIM], axis=1))
        q, k, v = (emit(relax.TupleGetItem(parts, i)) for i in order)
        raw = k
        if norm and groups[0]:
            q = emit(NORM[norm](q, wq, *[wq] * bias, eps=1e-5, groups=groups[0]))
        if norm and groups[1]:
            k = emit(NORM[k_norm or norm](k, wk, eps=k_eps, groups=groups[1]))
        unrotated = q
        if rotated:
            q = emit(rope_op(q, table, heads=HEADS, head_dim=DIM, interleaved=q_interleaved))
        if rotated and k_rotated:
            k = emit(rope_op(k, table, heads=KV_HEADS, head_dim=DIM, interleaved=False))
        extra = [emit(rope_op(unrotated, table, heads=HEADS, head_dim=DIM, interleaved=False))] if q_twice else []
        extra += [raw] if k_used_twice else []
        early = [emit(relax.op.exp(q))] if q_first else []
        new = emit(kv_append_op(k, v, plan, cache, value_dim=value_dim, **CACHE))
        return relax.Tuple([q, new, *extra, *early])

    return function(params(*sizes), body, num_input=4)


def fused(rotated=True, norm="", norm_over="", sizes=(DIM, DIM)):
    def body(emit, y, table, plan, cache, wq, wk):
        operands = [table] * rotated + [wq, wk] * bool(norm)
        attrs = CACHE | {"heads": HEADS, "norm": norm, "norm_eps": 1e-5 * bool(norm), "norm_over": norm_over}
        both = emit(qkv_append_op(y, plan, cache, *operands, interleaved=False, **attrs))
        q = emit(relax.TupleGetItem(both, 1))
        return relax.Tuple([q, emit(relax.TupleGetItem(both, 0))])

    return function(params(*sizes), body, num_input=4)


OWN = (HEADS * DIM, KV_HEADS * DIM)
VARIANTS = [
    ({}, {}),  # Llama
    ({"rotated": False}, {"rotated": False}),  # GPT-2, BERT, layers without positions
    ({"norm": "rms"}, {"norm": "rms", "norm_over": "head"}),  # Qwen 3
    ({"norm": "rms", "rotated": False}, {"norm": "rms", "norm_over": "head", "rotated": False}),
    ({"norm": "layer", "sizes": OWN}, {"norm": "layer", "norm_over": "heads", "sizes": OWN}),  # Cohere, StableLM
    ({"norm": "rms", "sizes": OWN, "groups": (1, 1)}, {"norm": "rms", "norm_over": "full", "sizes": OWN}),  # OLMo 2
]


@pytest.mark.parametrize(("before", "after"), VARIANTS)
def test_expected(before, after):
    found, log = apply(FuseQkvAppend(), attention(**before))
    assert_equal(found, fused(**after))
    assert [record.matched for record in log.records] == [True]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"value_dim": DIM - 1}, "heads of k and v differ in size"),
        ({"order": (0, 2, 1)}, "the projection's parts are not q, k and v in this order"),
        ({"q_interleaved": True}, "q and k are rotated differently"),
        ({"k_rotated": False}, "only one of q and k is rotated"),
        ({"q_twice": True}, "q is not taken, normalised and rotated once"),
        ({"q_first": True}, "q is needed before the append"),
        ({"k_used_twice": True}, "k, v or q on its way is used elsewhere too"),
        ({"norm": "rms", "groups": (HEADS, 0)}, "only one of q and k is normalised"),
        ({"norm": "rms", "groups": (0, KV_HEADS)}, "only one of q and k is normalised"),
        ({"norm": "rms", "k_eps": 1e-6}, "q and k are normalised differently"),
        ({"norm": "rms", "k_norm": "layer"}, "q and k are normalised differently"),
        ({"norm": "layer", "bias": True}, "the norms of q and k have biases"),
        (
            {"norm": "rms", "groups": (2 * HEADS, KV_HEADS)},
            "q and k are normalised neither head by head nor as whole rows",
        ),
        (
            {"norm": "rms", "groups": (1, KV_HEADS), "sizes": (HEADS * DIM, DIM)},
            "q and k are normalised neither head by head nor as whole rows",
        ),
    ],
)
def test_must_not_fire(change, reason):
    after, log = apply(FuseQkvAppend(), attention(**change))
    assert_equal(after, attention(**change))
    assert [record.reason for record in log.records] == [reason]


def test_must_not_fire_on_keys_of_another_projection():
    def body(emit, y, table, plan, cache):
        parts = emit(relax.op.split(y, [HEADS * DIM, (HEADS + KV_HEADS) * DIM], axis=1))
        q, k, v = (emit(relax.TupleGetItem(parts, i)) for i in range(3))
        k = emit(relax.op.exp(k))
        return relax.Tuple([q, emit(kv_append_op(k, v, plan, cache, value_dim=DIM, **CACHE))])

    mod = function(PARAMS, body, num_input=4)
    after, log = apply(FuseQkvAppend(), mod)
    assert_equal(after, mod)
    assert log.records[0].reason == "k and v are not parts of one projection"


@pytest.mark.parametrize("before", [before for before, _ in VARIANTS])
def test_numeric(before):
    rng = np.random.default_rng(0)
    plan = np.zeros(LAYOUT.size(3), np.int32)
    build_plan(LAYOUT, plan, [PlanSequence(np.array([4, 1], np.int32), 12, 9)], rows_only=True)
    sizes = before.get("sizes", (DIM, DIM))
    arrays = [
        normal(rng, 9, WIDTH),
        normal(rng, 9, DIM),
        plan,
        normal(rng, 5, LAYERS, KV_HEADS, 2 * PAGE * DIM, dtype="float16"),
        *(normal(rng, size) for size in sizes),
    ]
    mod = attention(**before)
    after, _ = apply(FuseQkvAppend(), mod)
    for old, new in zip(run(mod, arrays), run(after, arrays), strict=True):
        np.testing.assert_array_equal(old, new)
