"""Appending to the cache: fused with the rotation it has the bits of its parts, and it rounds to nearest even."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.runtime.plans import PAGE, PlanSequence, build_plan
from heddle.schedules.catalog import kv_append, rope, rope_append, rope_table
from heddle.schedules.compat import PrimFunc, tvm
from heddle.schedules.cpu.kv_cache import random_cache, record
from heddle.schedules.target import TargetProfile
from tests.test_attention import LAYOUT, TARGETS, Model, compiled


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(
    ("dtype", "interleaved"), [("float32", False), ("float16", True), ("bfloat16", False), ("int8", False)]
)
def test_fused_append_has_the_bits_of_its_parts(dtype: str, interleaved: bool, target: TargetProfile) -> None:
    model, n, rotary = Model(6, 2, 72, dtype), 23, 40
    rng = np.random.default_rng(1)
    qkv = rng.standard_normal((n, 10 * 72), np.float32)
    plan = np.zeros(LAYOUT.size(4), np.int32)
    used, positions = build_plan(LAYOUT, plan, [PlanSequence(np.array([5, 0, 3, 2], np.int32), 30, n)], rows_only=False)
    empty = random_cache(rng, 6, 2, 2, 72, 72, dtype)
    frequencies = (10000.0 ** (-np.arange(rotary // 2) / 20)).astype(np.float32)

    def call(func: PrimFunc, *arrays: object) -> None:
        compiled(func, target)(*arrays)

    def zeros(width: int) -> tvm.runtime.Tensor:
        return tvm.runtime.tensor(np.zeros((n, width), np.float32))

    table, plan_tensor = zeros(rotary), tvm.runtime.tensor(plan[:used])
    inputs = map(tvm.runtime.tensor, (positions, frequencies, np.ones(1, np.float32)))
    call(rope_table(rotary_dim=rotary, target=target), *inputs, table)
    fused, q = tvm.runtime.tensor(empty), zeros(6 * 72)
    params = model.params | {"heads": 6, "rotary_dim": rotary, "interleaved": interleaved}
    call(rope_append(target=target, **params), tvm.runtime.tensor(qkv), table, plan_tensor, fused, 1, q)

    parts = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in np.split(qkv, [6 * 72, 8 * 72], axis=1)]
    rotated = [zeros(6 * 72), zeros(2 * 72)]
    for heads, part, y in zip((6, 2), parts, rotated, strict=False):
        func = rope(heads=heads, head_dim=72, rotary_dim=rotary, interleaved=interleaved, target=target)
        call(func, part, table, y)
    cache = tvm.runtime.tensor(empty)
    call(kv_append(target=target, **model.params), rotated[1], parts[2], plan_tensor, cache, 1)
    assert q.numpy().tobytes() == rotated[0].numpy().tobytes()
    assert fused.numpy().tobytes() == cache.numpy().tobytes()


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
