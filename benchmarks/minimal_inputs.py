"""Random inputs of the minimal decode kernels (minimal_decode.py), and the numbers that they stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from limits import allocate
from minimal_decode import CHUNK, WORD
from paged import Heads, aligned

from heddle.runtime.plans import PAGE

BLOCK = 64  # pages of random numbers, which repeat: what stands in a page does not change its time


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Input arrays in the kernel's order, all on huge pages, and what they mean.

    `operands(b)` gives the float32 numbers of sequence b: the query [heads, head_dim], scaled, and keys and values
    [tokens, kv_heads, head_dim].
    """

    arrays: tuple[np.ndarray, ...]
    operands: Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]

    def attention(self, b: int) -> np.ndarray:
        """The result of sequence b, [heads, head_dim], in float64."""
        q, k, v = (x.astype(np.float64) for x in self.operands(b))
        k, v = (x.repeat(len(q) // x.shape[1], axis=1) for x in (k, v))
        scores = np.einsum("hd,thd->ht", q, k)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return np.einsum("ht,thd->hd", weights / weights.sum(-1, keepdims=True), v)


def _tables(lengths: Sequence[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Page table on scattered pages, lengths, and the number of pages. Entries past a sequence's end are page 0."""
    counts = [-(-length // PAGE) for length in lengths]
    scattered = np.split(rng.permutation(sum(counts)).astype(np.int32), np.cumsum(counts)[:-1])
    table = np.zeros((len(lengths), -(-max(counts) // CHUNK) * CHUNK), np.int32)
    for row, pages in zip(table, scattered, strict=True):
        row[: len(pages)] = pages
    return aligned(table), aligned(np.array(lengths, np.int32)), sum(counts)


def _repeated(block: np.ndarray, pages: int) -> np.ndarray:
    """`pages` pages that repeat those of `block`, on huge pages."""
    shape = (pages, *block.shape[1:])
    out = allocate(pages * block[0].nbytes).view(block.dtype).reshape(shape)
    for start in range(0, pages, len(block)):
        out[start : start + len(block)] = block[: pages - start]
    return out


def float_inputs(heads: Heads, lengths: Sequence[int], dtype: str, rng: np.random.Generator) -> Inputs:
    """Random inputs of `float_kernel` for sequences of these lengths."""
    table, ends, pages = _tables(lengths, rng)
    block = (BLOCK, heads.kv_heads, PAGE, heads.head_dim)
    k, v = (rng.standard_normal(block, np.float32).astype(dtype) for _ in range(2))
    keys, values = _repeated(k.swapaxes(2, 3), pages), _repeated(v, pages)
    shape = (len(lengths), heads.heads, heads.head_dim)
    q = aligned(rng.standard_normal(shape, np.float32) * np.float32(heads.head_dim**-0.5))

    def operands(b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return q[b], _rows(keys[table[b]].swapaxes(2, 3), lengths[b]), _rows(values[table[b]], lengths[b])

    return Inputs((q, keys, values, table, ends), operands)


def int8_inputs(heads: Heads, lengths: Sequence[int], rng: np.random.Generator) -> Inputs:
    """Random inputs of `int8_kernel` for sequences of these lengths."""
    table, ends, pages = _tables(lengths, rng)
    kv, d = heads.kv_heads, heads.head_dim
    k, v = (_quantized(rng.standard_normal((BLOCK, kv, PAGE, d), np.float32)) for _ in range(2))
    words = (k[0].astype(np.int16) + 128).astype(np.uint8).reshape(BLOCK, kv, PAGE, d // WORD, WORD).swapaxes(2, 3)
    fours = v[0].reshape(BLOCK, kv, PAGE // WORD, WORD, d).swapaxes(3, 4)
    keys = _repeated(words.reshape(BLOCK, kv, d // WORD, PAGE * WORD), pages)
    values = _repeated(fours.reshape(BLOCK, kv, PAGE // WORD, d * WORD), pages)
    key_scales, value_scales = _repeated(k[1], pages), _repeated(v[1], pages)
    codes, scales = _quantized(rng.standard_normal((len(lengths), heads.heads, d), np.float32) * np.float32(d**-0.5))
    starts = -128 * codes.sum(-1, dtype=np.int32)
    q = [aligned(a) for a in (np.ascontiguousarray(codes).view(np.int32), scales, starts)]

    def operands(b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        p = table[b]
        k = (
            keys[p].reshape(-1, kv, d // WORD, PAGE, WORD).swapaxes(2, 3).reshape(-1, kv, PAGE, d).astype(np.float32)
            - 128
        )
        v = values[p].reshape(-1, kv, PAGE // WORD, d, WORD).swapaxes(3, 4).reshape(-1, kv, PAGE, d)
        k, v = k * key_scales[p][..., None], v * value_scales[p][..., None]
        return codes[b] * scales[b][:, None], _rows(k, lengths[b]), _rows(v, lengths[b])

    return Inputs((*q, keys, key_scales, values, value_scales, table, ends), operands)


def _quantized(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 codes in [-127, 127] and float32 scales of the last axis."""
    scales = np.abs(x).max(-1) / np.float32(127)
    return np.round(x / scales[..., None]).astype(np.int8), scales


def _rows(pages: np.ndarray, tokens: int) -> np.ndarray:
    """Pages [n, kv_heads, 16, head_dim] as the float32 rows [tokens, kv_heads, head_dim] of a sequence."""
    n, heads, _, dim = pages.shape
    return pages.swapaxes(1, 2).reshape(n * PAGE, heads, dim)[:tokens].astype(np.float32)
