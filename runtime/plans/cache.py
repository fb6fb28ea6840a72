"""What one page of the KV cache holds for one layer and kv head: the record, in the types a cache may have.

Floats: K as [key_dim][16 tokens], whose lanes are tokens for the scores, then V as [16 tokens][value_dim]. int8: codes of K
(unsigned, 128 is zero) as [key_dim / 4][16 tokens][4], codes of V (signed) as [4 groups][value_dim][4 tokens], which dot
products of four bytes take as they stand, then 16 float32 scales of K and 16 of V, one for each token.
"""

from __future__ import annotations

import dataclasses

from .layout import PAGE

STORAGE = {"float32": "float32", "float16": "float16", "bfloat16": "uint16", "int8": "uint8"}
"""The element type of the pool, by the type of the cache."""


@dataclasses.dataclass(frozen=True)
class CacheRecord:
    """Elements of one record, and where its parts begin. `key_scales` and `value_scales` are those of int8, in bytes."""

    size: int
    values: int
    key_scales: int = 0
    value_scales: int = 0


def cache_record(kv_dtype: str, key_dim: int, value_dim: int) -> CacheRecord:
    """The record of heads of these sizes (V of 0: keys only); ValueError for an unknown type, or without keys."""
    if kv_dtype not in STORAGE:
        raise ValueError(f"unknown kv_dtype={kv_dtype!r}; choose one of {', '.join(STORAGE)}")
    if key_dim < 1 or value_dim < 0:
        raise ValueError(f"keys of {key_dim} and values of {value_dim} dimensions; 1 and 0 are the least")
    if kv_dtype != "int8":
        return CacheRecord(PAGE * (key_dim + value_dim), PAGE * key_dim)
    values = -(-key_dim // 4) * 4 * PAGE
    scales = values + PAGE * value_dim
    return CacheRecord(-(-(scales + 8 * PAGE) // 64) * 64, values, scales, scales + 4 * PAGE)
