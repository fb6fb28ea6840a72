"""Writing and reading int8 records of the KV cache: codes and scales of each token and head.

Layout: `runtime.plans.cache`. Codes: `quantize`. Prefill attends to what it has just written, so it sees the same rounded keys
and values as every later step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...runtime.plans import PAGE
from ...runtime.plans.cache import cache_record
from ..compat import T
from .quantize import inverse_scale, largest, magnitude, quantize_rows, rounded


def append_row_int8(key_dim: int, value_dim: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Macros `put_key` and `put_value` for heads of these sizes: quantize one head of one row into its slot."""
    record = cache_record("int8", key_dim, value_dim)
    padding = -key_dim % 4

    @T.inline
    def put_key(k, k_row, k_at, cache, page, layer, h, offset):
        top = T.alloc_buffer((1,), "int32", scope="global")
        top[0] = 0
        for d in T.serial(key_dim):
            top[0] = T.max(top[0], magnitude(k[k_row, k_at + d]))
        inverse: T.let = inverse_scale(largest(top[0]))
        for d in T.serial(key_dim):
            cache[page, layer, h, (d // 4) * (4 * PAGE) + offset * 4 + d % 4] = T.cast(
                rounded(k[k_row, k_at + d], inverse) + 128, "uint8"
            )
        for d in T.serial(padding):
            cache[page, layer, h, key_dim // 4 * (4 * PAGE) + offset * 4 + key_dim % 4 + d] = T.uint8(128)
        cache[page, layer, h, T.ramp(record.key_scales + offset * 4, 1, 4)] = T.reinterpret(
            "uint8x4", largest(top[0]) * T.float32(1 / 127)
        )

    @T.inline
    def put_value(v, v_row, v_at, cache, page, layer, h, offset):
        top = T.alloc_buffer((1,), "int32", scope="global")
        top[0] = 0
        for d in T.serial(value_dim):
            top[0] = T.max(top[0], magnitude(v[v_row, v_at + d]))
        inverse: T.let = inverse_scale(largest(top[0]))
        for d in T.serial(value_dim):
            cache[page, layer, h, record.values + ((offset // 4) * value_dim + d) * 4 + offset % 4] = T.cast(
                rounded(v[v_row, v_at + d], inverse), "uint8"
            )
        cache[page, layer, h, T.ramp(record.value_scales + offset * 4, 1, 4)] = T.reinterpret(
            "uint8x4", largest(top[0]) * T.float32(1 / 127)
        )

    return put_key, put_value


def write_int8(records: np.ndarray, pages: np.ndarray, slots: np.ndarray, k: np.ndarray, v: np.ndarray) -> None:
    """The reference: write k [n, kv_heads, key_dim] and v to records uint8 [pages, kv_heads, bytes] of one layer."""
    record = cache_record("int8", k.shape[2], v.shape[2])
    n, heads, key_dim = k.shape
    key_codes, key_scales = quantize_rows(k)
    value_codes, value_scales = quantize_rows(v)
    padded = np.full((n, heads, -(-key_dim // 4) * 4), 128, np.uint8)
    padded[..., :key_dim] = (key_codes.astype(np.int16) + 128).astype(np.uint8)
    d, e = np.arange(padded.shape[2]), np.arange(v.shape[2])
    key_at = (d // 4) * (4 * PAGE) + slots[:, None] * 4 + d % 4
    value_at = record.values + ((slots[:, None] // 4) * len(e) + e) * 4 + slots[:, None] % 4
    head = np.arange(heads)[None, :, None]
    page = pages[:, None, None]
    records[page, head, key_at[:, None]] = padded
    records[page, head, value_at[:, None]] = value_codes.view(np.uint8)
    for begin, scales in ((record.key_scales, key_scales), (record.value_scales, value_scales)):
        at = begin + slots[:, None] * 4 + np.arange(4)
        records[page, head, at[:, None]] = np.ascontiguousarray(scales)[..., None].view(np.uint8)


def read_int8(
    records: np.ndarray, pages: np.ndarray, slots: np.ndarray, key_dim: int, value_dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """K float64 [n, kv_heads, key_dim] and V of n tokens in records uint8 [pages, kv_heads, bytes] of one layer."""
    record = cache_record("int8", key_dim, value_dim)
    count, heads = records.shape[:2]
    n, words = len(pages), -(-key_dim // 4)
    keys = records[..., : words * 4 * PAGE].reshape(count, heads, words, PAGE, 4)
    values = records[..., record.values : record.values + PAGE * value_dim].reshape(count, heads, 4, value_dim, 4)
    k = keys[pages, :, :, slots].reshape(n, heads, words * 4)[..., :key_dim].astype(np.float64) - 128
    v = values[pages, :, slots // 4, :, slots % 4].view(np.int8).astype(np.float64)
    scales = []
    for begin in (record.key_scales, record.value_scales):
        part = np.ascontiguousarray(records[..., begin : begin + 4 * PAGE]).view(np.float32)
        scales.append(part[pages, :, slots][..., None].astype(np.float64))
    return k * scales[0], v * scales[1]
