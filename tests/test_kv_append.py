"""Appending to the cache: fused with the rotation it has the bits of its parts, and it rounds to nearest even."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.runtime.plans import PAGE, PlanSequence, build_plan
from heddle.schedules.catalog import kv_append, layer_norm, qkv_append, rms_norm, rope, rope_table
from heddle.schedules.compat import PrimFunc, tvm
from heddle.schedules.cpu.kv_cache import random_cache, record
from heddle.schedules.target import TargetProfile
from tests.test_attention import LAYOUT, TARGETS, Model, compiled

VARIANTS = [
    ("float32", 40, False, "", ""),
    ("float16", 40, True, "", ""),
    ("bfloat16", 0, False, "", ""),
    ("int8", 40, False, "rms", "head"),
    ("float16", 72, False, "rms", "full"),
    ("float32", 0, False, "layer", "heads"),
    ("int8", 0, False, "layer", "full"),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(("dtype", "rotary", "interleaved", "norm", "norm_over"), VARIANTS)
def test_fused_append_has_the_bits_of_its_parts(
    dtype: str, rotary: int, interleaved: bool, norm: str, norm_over: str, target: TargetProfile
) -> None:
    model, n, dim, counts = Model(6, 2, 72, dtype), 23, 72, (6, 2)
    rng = np.random.default_rng(1)
    qkv = rng.standard_normal((n, 10 * dim), np.float32)
    plan = np.zeros(LAYOUT.size(4), np.int32)
    used, positions = build_plan(LAYOUT, plan, [PlanSequence(np.array([5, 0, 3, 2], np.int32), 30, n)], rows_only=False)
    empty = random_cache(rng, 6, 2, 2, dim, dim, dtype)
    tensor = tvm.runtime.tensor

    def call(func: PrimFunc, *arrays: object) -> None:
        compiled(func, target)(*arrays)

    def zeros(width: int) -> tvm.runtime.Tensor:
        return tensor(np.zeros((n, width), np.float32))

    plan_tensor, operands = tensor(plan[:used]), []
    if rotary:
        frequencies = (10000.0 ** (-np.arange(rotary // 2) / 20)).astype(np.float32)
        operands = [zeros(rotary)]
        inputs = map(tensor, (positions, frequencies, np.ones(1, np.float32)))
        call(rope_table(rotary_dim=rotary, target=target), *inputs, *operands)
    sizes = [dim if norm_over == "head" else count * dim for count in counts] if norm else []
    weights = [tensor(rng.standard_normal(size, np.float32)) for size in sizes]
    whole, q = tensor(empty), zeros(6 * dim)
    params = model.params | {"heads": 6, "rotary_dim": rotary, "interleaved": interleaved}
    func = qkv_append(target=target, norm=norm, norm_eps=1e-5, norm_over=norm_over, **params)
    call(func, tensor(qkv), plan_tensor, whole, 1, *operands, *weights, q)

    *parts, v = [tensor(np.ascontiguousarray(a)) for a in np.split(qkv, [6 * dim, 8 * dim], axis=1)]
    for i, count in enumerate(counts):
        if norm:
            groups = {"groups": 1 if norm_over == "full" else count, "shared": norm_over == "head", "eps": 1e-5}
            made, x = {"rms": rms_norm, "layer": layer_norm}[norm], parts[i]
            parts[i] = zeros(count * dim)
            call(made(features=count * dim, target=target, **groups), x, weights[i], parts[i])
        if rotary:
            x, parts[i] = parts[i], zeros(count * dim)
            func = rope(heads=count, head_dim=dim, rotary_dim=rotary, interleaved=interleaved, target=target)
            call(func, x, *operands, parts[i])
    cache = tensor(empty)
    call(kv_append(target=target, **model.params), parts[1], v, plan_tensor, cache, 1)
    assert q.numpy().tobytes() == parts[0].numpy().tobytes()
    assert whole.numpy().tobytes() == cache.numpy().tobytes()


def test_a_norm_over_nothing_is_refused() -> None:
    for norm, norm_over in (("rms", ""), ("", "head"), ("rms", "row")):
        with pytest.raises(ValueError, match="choose rms or layer over head, heads, full, or neither"):
            qkv_append(
                target=TARGETS[0], heads=4, rotary_dim=0, norm=norm, norm_over=norm_over, **Model(4, 2, 64).params
            )


def test_bfloat16_rounds_to_nearest_even() -> None:
    model = Model(1, 1, 16, "bfloat16")
    bits = np.array(
        [0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0xBF818000, 0x7F7FFFFF, 0x7F800001, 0xFFFFFFFF], np.uint32
    )
    values = np.tile(bits.view(np.float32), 2)[None]
    plan = np.zeros(LAYOUT.size(1), np.int32)
    used, _ = build_plan(LAYOUT, plan, [PlanSequence(np.zeros(1, np.int32), 0, 1)], rows_only=True)
    for target in TARGETS:
        cache = tvm.runtime.tensor(np.zeros((1, 2, 1, record(16)), np.uint16))
        append = compiled(kv_append(target=target, **model.params), target)
        append(*map(tvm.runtime.tensor, (values, values, plan[:used])), cache, 0)
        want = [0x3F80, 0x3F82, 0x3F81, 0x3F80, 0xBF82, 0x7F80]
        for written in (cache.numpy()[0, 0, 0, : 16 * PAGE : PAGE], cache.numpy()[0, 0, 0, 16 * PAGE :][:16]):
            assert written[:6].tolist() == want
            widened = (written[6:8].astype(np.uint32) << 16).view(np.float32)
            assert np.isnan(widened).all()


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kv_dtype='int4'"):
        kv_append(target=TARGETS[0], **Model(4, 2, 64, "int4").params)
