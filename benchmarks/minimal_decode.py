"""The least that a decode kernel over a paged cache can do, to compare ours with.

One query row and one length for each sequence, one task for each sequence and kv head, keys and values in arrays of their own:
no plan, no variants, no split of long sequences, and no care for bits (a query's result depends on the contraction that LLVM
chooses). Chunks of 256 tokens go through scores, online softmax and values in registers of 512 bits. int8 needs VNNI.

Indices are int32: an array holds fewer than 2**31 elements. Intermediate values are `T.let`: TVMScript would make cells in memory
of plain assignments, at less than half the speed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from paged import Heads

from heddle.runtime.plans import PAGE
from heddle.schedules.compat import PrimFunc, T, finish
from heddle.schedules.cpu.softmax_state import max_lanes, sum_lanes
from heddle.schedules.vector import IN_REGISTERS, LANES, const, lanes, splat

CHUNK = 16  # pages between two updates of the softmax
AHEAD = 4  # pages between a prefetch and its use
WORD = 4  # bytes that one lane multiplies at a time
LOW = -1e30  # the score of a token past the end, and the maximum before any token


def _registers(heads: Heads) -> tuple[int, int, int]:
    """Queries of a kv head, and by how many pages of scores and vectors of values they make a register tile."""
    group = heads.heads // heads.kv_heads
    if group > 8 or heads.head_dim % 64:
        raise ValueError(f"{heads}: the minimal kernels take at most 8 heads a kv head and a head_dim in steps of 64")
    return (group, 2, 2) if group > 4 else (group, 4, 4)


def _exp(x: Any) -> Any:
    """e**x for x <= 0 in 16 lanes, relative error 4e-6: shorter than that of our kernels."""
    power = T.max(x, const(-87.0)) * const(1.4426950408889634)
    n = T.call_llvm_pure_intrin("float32x16", "llvm.nearbyint", power)
    p = const(1.33336498402e-3)
    for c in (9.61812910763e-3, 5.55041086648e-2, 2.40226506959e-1, 6.93147180560e-1, 1.0):
        p = p * (power - n) + const(c)
    exponent = T.shift_left(T.cast(n, "int32x16"), T.broadcast(T.int32(23), LANES))
    return T.reinterpret("float32x16", T.reinterpret("int32x16", p) + exponent)


def _prefetch(element: Any) -> Any:
    return T.call_llvm_intrin("void", "llvm.prefetch.p0", T.address_of(element), 0, 3, 1)


def _later(table: Any, b: Any, page: Any, most: Any) -> Any:
    """The page whose lines are asked for while `page` is read."""
    return table[b, T.min(page + AHEAD, most - 1)]


def _chunks(length: Any) -> Any:
    return T.truncdiv(length + (CHUNK * PAGE - 1), CHUNK * PAGE)


def _masked(score: Any, page: Any, length: Any) -> Any:
    return T.Select(lanes(page * PAGE) < splat(length), score, const(LOW))


def _dot4(acc: Any, unsigned: Any, signed: Any) -> Any:
    """acc int32x16 + products of unsigned and signed bytes, summed by four; operands of any type of 64 bytes."""
    u, s = T.reinterpret("uint8x64", unsigned), T.reinterpret("int8x64", signed)
    return T.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.vpdpbusd.512", acc, u, s)


def _softmax(group: int, columns: int) -> tuple[Any, Any, Any]:
    """Steps of the online softmax for `group` queries with values of `columns` vectors: begin, rescale, end."""

    @T.inline
    def begin(peak, total, acc):
        for g in T.serial(group):
            peak[g] = T.float32(LOW)
            total[g] = const(0.0)
            for c in T.serial(columns):
                acc[g, c] = const(0.0)

    @T.inline
    def rescale(g, scores, peak, total, acc):
        top = T.alloc_buffer((1,), "float32x16", scope="global")
        top[0] = splat(peak[g])
        for p in T.unroll(CHUNK):
            top[0] = T.max(top[0], scores[p, g, lanes(0)])
        new: T.let[T.float32] = max_lanes(top[0])
        top[0] = _exp(splat(peak[g] - new))
        peak[g] = new
        total[g] = total[g] * top[0]
        for c in T.unroll(columns):
            acc[g, c] = acc[g, c] * top[0]

    @T.inline
    def end(b, first, total, acc, out):
        for g in T.serial(group):
            inverse: T.let[T.float32] = T.float32(1) / sum_lanes(total[g])
            for c in T.serial(columns):
                out[b, first + g, lanes(c * LANES)] = acc[g, c] * splat(inverse)

    return begin, rescale, end


def float_kernel(heads: Heads, dtype: str) -> PrimFunc:
    """Decode over float32 or float16: keys [pages, kv_heads, head_dim, 16 tokens], values [pages, kv_heads, 16 tokens, head_dim].

    Arguments: q float32 [batch, heads, head_dim], scaled; keys; values; table int32 [batch, n], with n a multiple of 16 pages;
    lengths int32 [batch]; out.
    """
    group, pages, vectors = _registers(heads)
    H, KV, D = heads.heads, heads.kv_heads, heads.head_dim
    columns = D // LANES
    line = 64 // np.dtype(dtype).itemsize  # elements in a cache line
    begin, rescale, end = _softmax(group, columns)

    @T.prim_func(private=True, s_tir=True)
    def decode(q_: T.handle, keys_: T.handle, values_: T.handle, table_: T.handle, lengths_: T.handle, out_: T.handle):
        batch = T.int32()
        stored = T.int32()
        most = T.int32()
        q = T.match_buffer(q_, (batch, H, D), "float32", align=64)
        keys = T.match_buffer(keys_, (stored, KV, D, PAGE), dtype, align=32)
        values = T.match_buffer(values_, (stored, KV, PAGE, D), dtype, align=32)
        table = T.match_buffer(table_, (batch, most), "int32", align=64)
        lengths = T.match_buffer(lengths_, (batch,), "int32", align=64)
        out = T.match_buffer(out_, (batch, H, D), "float32", align=64)
        for task in T.parallel(batch * KV):
            b: T.let[T.int32] = T.truncdiv(task, KV)
            h: T.let[T.int32] = T.truncmod(task, KV)
            s = T.alloc_buffer((CHUNK, group, LANES), "float32", scope="global", align=64)
            acc = T.alloc_buffer((group, columns), "float32x16", scope="global", align=64)
            peak = T.alloc_buffer((group,), "float32", scope="global")
            total = T.alloc_buffer((group,), "float32x16", scope="global", align=64)
            begin(peak, total, acc)
            for chunk in T.serial(_chunks(lengths[b])):
                for step in T.serial(CHUNK // pages):
                    p0: T.let[T.int32] = chunk * CHUNK + step * pages
                    x = T.alloc_buffer((pages, group), "float32x16", scope="global", annotations=IN_REGISTERS)
                    for p in T.unroll(pages):
                        for g in T.unroll(group):
                            x[p, g] = const(0.0)
                    for d in T.serial(D):
                        for p in T.unroll(pages):
                            T.evaluate(_prefetch(keys[_later(table, b, p0 + p, most), h, d, 0]))
                        for p in T.unroll(pages):
                            for g in T.unroll(group):
                                key: T.let[T.float32x16] = T.cast(keys[table[b, p0 + p], h, d, lanes(0)], "float32x16")
                                x[p, g] = x[p, g] + key * splat(q[b, h * group + g, d])
                    for p in T.unroll(pages):
                        for g in T.unroll(group):
                            s[step * pages + p, g, lanes(0)] = _masked(x[p, g], p0 + p, lengths[b])
                for g in T.serial(group):
                    rescale(g, s, peak, total, acc)
                    for p in T.unroll(CHUNK):
                        s[p, g, lanes(0)] = _exp(s[p, g, lanes(0)] - splat(peak[g]))
                        total[g] = total[g] + s[p, g, lanes(0)]
                for part in T.serial(columns // vectors):
                    c0: T.let[T.int32] = part * vectors
                    y = T.alloc_buffer((group, vectors), "float32x16", scope="global", annotations=IN_REGISTERS)
                    for g in T.unroll(group):
                        for c in T.unroll(vectors):
                            y[g, c] = acc[g, c0 + c]
                    for p in T.serial(CHUNK):
                        for t in T.serial(PAGE):
                            for i in T.unroll(vectors * LANES // line):
                                later: T.let[T.int32] = _later(table, b, chunk * CHUNK + p, most)
                                T.evaluate(_prefetch(values[later, h, t, c0 * LANES + i * line]))
                            for c in T.unroll(vectors):
                                for g in T.unroll(group):
                                    value: T.let[T.float32x16] = T.cast(
                                        values[table[b, chunk * CHUNK + p], h, t, lanes((c0 + c) * LANES)],
                                        "float32x16",
                                    )
                                    y[g, c] = y[g, c] + value * splat(s[p, g, t])
                    for g in T.unroll(group):
                        for c in T.unroll(vectors):
                            acc[g, c0 + c] = y[g, c]
            end(b, h * group, total, acc, out)

    return finish(decode)


def int8_kernel(heads: Heads) -> PrimFunc:
    """Decode over int8 with a scale for each token: both products are sums of byte products, by VNNI.

    Arguments: q int32 [batch, heads, head_dim / 4], four codes a word; its scales float32 [batch, heads]; its starts int32
    [batch, heads], -128 times the sum of the codes; keys uint8 [pages, kv_heads, head_dim / 4, 16 tokens * 4], 128 is zero;
    key_scales float32 [pages, kv_heads, 16]; values int8 [pages, kv_heads, 4, head_dim * 4 tokens]; value_scales as those
    of keys; table int32 [batch, n], with n a multiple of 16 pages; lengths int32 [batch]; out.
    """
    group, pages, vectors = _registers(heads)
    H, KV, D = heads.heads, heads.kv_heads, heads.head_dim
    columns, words = D // LANES, D // WORD
    begin, rescale, end = _softmax(group, columns)

    @T.prim_func(private=True, s_tir=True)
    def decode(
        q_: T.handle,
        q_scales_: T.handle,
        q_starts_: T.handle,
        keys_: T.handle,
        key_scales_: T.handle,
        values_: T.handle,
        value_scales_: T.handle,
        table_: T.handle,
        lengths_: T.handle,
        out_: T.handle,
    ):
        batch = T.int32()
        stored = T.int32()
        most = T.int32()
        q = T.match_buffer(q_, (batch, H, words), "int32", align=64)
        q_scales = T.match_buffer(q_scales_, (batch, H), "float32", align=64)
        q_starts = T.match_buffer(q_starts_, (batch, H), "int32", align=64)
        keys = T.match_buffer(keys_, (stored, KV, words, PAGE * WORD), "uint8", align=64)
        key_scales = T.match_buffer(key_scales_, (stored, KV, PAGE), "float32", align=64)
        values = T.match_buffer(values_, (stored, KV, PAGE // WORD, D * WORD), "int8", align=64)
        value_scales = T.match_buffer(value_scales_, (stored, KV, PAGE), "float32", align=64)
        table = T.match_buffer(table_, (batch, most), "int32", align=64)
        lengths = T.match_buffer(lengths_, (batch,), "int32", align=64)
        out = T.match_buffer(out_, (batch, H, D), "float32", align=64)
        for task in T.parallel(batch * KV):
            b: T.let[T.int32] = T.truncdiv(task, KV)
            h: T.let[T.int32] = T.truncmod(task, KV)
            s = T.alloc_buffer((CHUNK, group, LANES), "float32", scope="global", align=64)
            codes = T.alloc_buffer((CHUNK, group, PAGE // WORD), "int32", scope="global", align=64)
            code_scale = T.alloc_buffer((group,), "float32", scope="global")
            acc = T.alloc_buffer((group, columns), "float32x16", scope="global", align=64)
            peak = T.alloc_buffer((group,), "float32", scope="global")
            total = T.alloc_buffer((group,), "float32x16", scope="global", align=64)
            begin(peak, total, acc)
            for chunk in T.serial(_chunks(lengths[b])):
                for step in T.serial(CHUNK // pages):
                    p0: T.let[T.int32] = chunk * CHUNK + step * pages
                    x = T.alloc_buffer((pages, group), "int32x16", scope="global", annotations=IN_REGISTERS)
                    for p in T.unroll(pages):
                        for g in T.unroll(group):
                            x[p, g] = splat(q_starts[b, h * group + g])
                    for w in T.serial(words):
                        for p in T.unroll(pages):
                            T.evaluate(_prefetch(keys[_later(table, b, p0 + p, most), h, w, 0]))
                        for p in T.unroll(pages):
                            for g in T.unroll(group):
                                key: T.let[T.uint8x64] = keys[table[b, p0 + p], h, w, lanes(0, 64)]
                                x[p, g] = _dot4(x[p, g], key, splat(q[b, h * group + g, w]))
                    for p in T.unroll(pages):
                        for g in T.unroll(group):
                            scale: T.let[T.float32x16] = key_scales[table[b, p0 + p], h, lanes(0)] * splat(
                                q_scales[b, h * group + g]
                            )
                            score: T.let[T.float32x16] = T.cast(x[p, g], "float32x16") * scale
                            s[step * pages + p, g, lanes(0)] = _masked(score, p0 + p, lengths[b])
                for g in T.serial(group):
                    rescale(g, s, peak, total, acc)
                    top = T.alloc_buffer((1,), "float32x16", scope="global")
                    top[0] = const(1e-30)
                    for p in T.unroll(CHUNK):
                        weight: T.let[T.float32x16] = _exp(s[p, g, lanes(0)] - splat(peak[g]))
                        total[g] = total[g] + weight
                        s[p, g, lanes(0)] = weight * value_scales[table[b, chunk * CHUNK + p], h, lanes(0)]
                        top[0] = T.max(top[0], s[p, g, lanes(0)])
                    largest: T.let[T.float32] = max_lanes(top[0])
                    code_scale[g] = largest * T.float32(1 / 255)
                    inverse: T.let[T.float32] = T.float32(255) / largest
                    for p in T.unroll(CHUNK):
                        code: T.let[T.int32x16] = T.cast(s[p, g, lanes(0)] * splat(inverse) + const(0.5), "int32x16")
                        codes[p, g, lanes(0, PAGE // WORD)] = T.reinterpret("int32x4", T.cast(code, "uint8x16"))
                for part in T.serial(columns // vectors):
                    c0: T.let[T.int32] = part * vectors
                    y = T.alloc_buffer((group, vectors), "int32x16", scope="global", annotations=IN_REGISTERS)
                    for g in T.unroll(group):
                        for c in T.unroll(vectors):
                            y[g, c] = splat(T.int32(0))
                    for p in T.serial(CHUNK):
                        for t in T.unroll(PAGE // WORD):
                            for c in T.unroll(vectors):
                                later: T.let[T.int32] = _later(table, b, chunk * CHUNK + p, most)
                                T.evaluate(_prefetch(values[later, h, t, (c0 + c) * 64]))
                            for c in T.unroll(vectors):
                                for g in T.unroll(group):
                                    value: T.let[T.int8x64] = values[
                                        table[b, chunk * CHUNK + p], h, t, lanes((c0 + c) * 64, 64)
                                    ]
                                    y[g, c] = _dot4(y[g, c], splat(codes[p, g, t]), value)
                    for g in T.unroll(group):
                        for c in T.unroll(vectors):
                            product: T.let[T.float32x16] = T.cast(y[g, c], "float32x16") * splat(code_scale[g])
                            acc[g, c0 + c] = acc[g, c0 + c] + product
            end(b, h * group, total, acc, out)

    return finish(decode)
