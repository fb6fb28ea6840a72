"""One KV tile of attention over an int8 cache: both products are exact integer dot products.

The second micro-kernel of the attention walk (see attention_tile.py for the first). A query is quantized once, by its own
largest magnitude; scores are int32 sums times the scales of query and token. Weights times the scales of V are quantized to 8
bits by their largest in the tile. Tiles lie at absolute positions, so all roundings depend on position alone.
"""

from __future__ import annotations

from collections.abc import Callable

from ...runtime.plans import KV_TILE, PAGE
from ...runtime.plans.cache import cache_record
from ..compat import T
from ..dot import SIGN, at_once, bias, dot4, signed_codes, splats
from ..emit import Buffer, Value, i64, let, local, serial, store, unroll
from ..target import TargetProfile
from ..vector import LANES, Vec, const, fma, lanes, splat
from .attention_group import Group
from .attention_tile import TILE_PAGES, Finish, KVTile, mask_rest
from .quantize import inverse_scale, largest, magnitude, rounded
from .softmax_state import max_lanes

WORD = 4  # bytes that one lane multiplies at a time
TILE_WORDS = KV_TILE // WORD


class Int8Tile:
    """Scores and values of stored codes; same methods as `FloatTile`."""

    def __init__(self, group: Group, key_dim: int, value_dim: int, target: TargetProfile) -> None:
        self.group, self.key_dim, self.value_dim, self.target = group, key_dim, value_dim, target
        self.record = cache_record("int8", key_dim, value_dim)
        self.words = -(-key_dim // WORD)
        self.step = at_once(target)
        self.codes = local("q_codes", (group.padded, -(-self.words // self.step) * self.step), "int32")
        self.scale = local("q_scale", (group.padded,))
        # What sums of products with K begin with: its codes are 128 too large, unless dot products take that off.
        self.start = local("q_start", (group.padded,), "int32")
        self.less = bias(8, target)
        self.scaled = local("q_scaled", (self.words * WORD,))
        self.weights = local("s", (group.padded, KV_TILE))
        self.weight_codes = local("w_codes", (group.padded, TILE_WORDS), "int32")
        self.weight_scale = local("w_scale", (group.padded,))

    def load(self, query: Value, q: Callable[[Value, int], Value], scale: float) -> None:
        """Take the query whose elements are `q(offset, lanes)`, times the scale, as codes in [-127, 127]."""
        top, total = local("top", (1,), "int32", registers=True), local("total", (1,), "int32", registers=True)
        store(top, 0, T.int32(0))
        store(total, 0, T.int32(0))
        for d in range(self.key_dim, self.words * WORD):
            store(self.scaled, d, T.float32(0))
        with serial(self.key_dim, "d") as d:
            x = let("x", q(d, 1) * T.float32(scale))
            store(self.scaled, d, x)
            store(top, 0, T.max(top[0], magnitude(x)))
        peak = let("peak", largest(top[0]))
        inverse = let("inverse", inverse_scale(peak))
        store(self.scale, query, peak * T.float32(1 / 127))
        with serial(self.words, "w") as w:
            word: Value = T.int32(0)
            for i in range(WORD):
                code = let(f"code{i}", rounded(self.scaled[w * WORD + i], inverse))
                store(total, 0, total[0] + code)
                word = T.bitwise_or(word, T.shift_left(T.bitwise_and(code, T.int32(255)), T.int32(8 * i)))
            store(self.codes, (query, w), word)
        store(self.start, query, total[0] * T.int32(self.less - SIGN))

    def repeat(self, query: Value, last: Value) -> None:
        """Fill a register tile with a copy of the last query."""
        store(self.scale, query, self.scale[last])
        store(self.start, query, self.start[last])
        with serial(self.words, "w") as w:
            store(self.codes, (query, w), self.codes[last, w])

    def _word(self, tile: KVTile, p: Value, at: Value) -> Vec:
        return T.reinterpret("int32x16", tile.at(p, lanes(at, 64)))

    def floats(self, tile: KVTile, p: Value, at: int) -> Vec:
        return T.reinterpret("float32x16", tile.at(p, lanes(at, 64)))

    def score(self, tile: KVTile, blocks: Value, finish: Finish) -> None:
        """Scores of the pages that some query sees, in steps of the register tile; MASKED for the others."""
        group, pages = self.group, self.group.pages
        first_step = let("first_step", T.truncdiv(tile.page_lo, i64(pages)))
        steps = let("steps", T.truncdiv(tile.page_hi + (pages - 1), i64(pages)) - first_step)
        mask_rest(self.weights, blocks * group.block, steps * pages)
        with serial(steps, "step") as step:
            p0 = let("p0", (first_step + step) * pages)
            with serial(blocks, "block") as block:
                x = local("x", (group.block, pages, LANES), "int32", registers=True)
                with unroll(group.block, "r") as r, unroll(pages, "p") as p:
                    store(x, (r, p, lanes(0)), splat(self.start[block * group.block + r]))
                with serial(self.words // self.step, "w0") as w0:
                    self._score_words(tile, x, p0, block, w0 * self.step, self.step)
                if self.words % self.step:
                    first = self.words // self.step * self.step
                    self._score_words(tile, x, p0, block, i64(first), self.words % self.step)
                with unroll(group.block, "r") as r:
                    query = let("query", block * group.block + r)
                    with unroll(pages, "p") as p:
                        scale = self.floats(tile, p0 + p, self.record.key_scales) * splat(self.scale[query])
                        raw = T.cast(x[r, p, lanes(0)], "float32x16") * scale
                        store(self.weights, (query, lanes((p0 + p) * PAGE)), finish(query, p0 + p, raw))

    def _score_words(self, tile: KVTile, x: Buffer, p0: Value, block: Value, w0: Value, count: int) -> None:
        group = self.group
        rows = [splats(self.codes, (block * group.block + r,), w0, count, self.target) for r in range(group.block)]
        for i in range(count):
            w = w0 + i
            if group.prefetch:
                with unroll(group.pages, "p") as p:
                    tile.fetch(p0 + p, self.record.values + w * 64)
            for p in range(group.pages):
                key = self._word(tile, p0 + p, w * 64)
                for r, row in enumerate(rows):
                    store(x, (r, p, lanes(0)), dot4(x[r, p, lanes(0)], key, row[i], self.target, self.less))

    def accumulate(self, tile: KVTile, blocks: Value, acc: Buffer) -> None:
        """acc += weights times values; the codes of tokens without weight count for nothing, whatever stands there."""
        columns, vectors = -(-self.value_dim // LANES), self.group.vectors
        if columns // vectors:
            with serial(columns // vectors, "c") as c:
                self._columns(tile, blocks, acc, c * vectors, vectors)
        if columns % vectors:
            self._columns(tile, blocks, acc, i64(columns // vectors * vectors), columns % vectors)

    def observer(self, tile: KVTile) -> WeightQuantizer:
        """Turns the weights of a tile into codes while the softmax state is updated."""
        return WeightQuantizer(self, tile)

    def _columns(self, tile: KVTile, blocks: Value, acc: Buffer, column: Value, n: int) -> None:
        group = self.group
        # One row more, of weights that count as 0, has what dot products take off the codes of all others.
        count = group.block + (1 if self.less else 0)
        with serial(blocks, "block") as block:
            x = local("x", (count, n, LANES), "int32", registers=True)
            with unroll(count, "r") as r, unroll(n, "d") as d:
                store(x, (r, d, lanes(0)), splat(T.int32(0)))
            with serial(tile.page_hi - tile.page_lo, "page_step") as page_step:
                p = let("p", tile.page_lo + page_step)
                with serial(PAGE // WORD // self.step, "g0") as g0:
                    self._add_words(tile, x, p, block, column, n, g0 * self.step)
            with unroll(group.block, "r") as r, unroll(n, "d") as d:
                query, to = block * group.block + r, lanes((column + d) * LANES)
                scale, sums = splat(self.weight_scale[query]), x[r, d, lanes(0)]
                if self.less:
                    sums = sums - x[group.block, d, lanes(0)]
                store(acc, (query, to), fma(T.cast(sums, "float32x16"), scale, acc[query, to]))

    def _add_words(self, tile: KVTile, x: Buffer, p: Value, block: Value, column: Value, n: int, first: Value) -> None:
        group = self.group
        at = p * (PAGE // WORD) + first
        rows = [
            splats(self.weight_codes, (block * group.block + r,), at, self.step, self.target, self.less)
            for r in range(group.block)
        ]
        if self.less:
            rows.append([signed_codes(splat(T.int32(0)))] * self.step)
        for i in range(self.step):
            at = let("at", ((first + i) * self.value_dim + column * LANES) * WORD)
            if group.prefetch:
                # The next tile's keys, which are as large and lie as far apart.
                with unroll(n, "d") as d:
                    tile.fetch(TILE_PAGES + p, at + d * 64)
            for d in range(n):
                value = self._word(tile, p, self.record.values + at + d * 64)
                for r, row in enumerate(rows):
                    store(x, (r, d, lanes(0)), dot4(x[r, d, lanes(0)], row[i], value, self.target))


class WeightQuantizer:
    """Weights times V's scales as codes 0 to 255, four tokens a word, by the largest of them in the tile."""

    def __init__(self, kernel: Int8Tile, tile: KVTile) -> None:
        self.kernel, self.tile = kernel, tile
        self.tops = local("top_weights", (kernel.group.padded, LANES))
        self.inverse = local("inverse_scale", (kernel.group.padded,))

    def begin(self) -> None:
        self.top = local("top_weight", (LANES,), registers=True)
        store(self.top, lanes(0), const(0.0))

    def weigh(self, weight: Vec, masked: Vec, page: Value) -> Vec:
        # A masked token may never have been written: its scale may be anything.
        scaled = weight * self.kernel.floats(self.tile, page, self.kernel.record.value_scales)
        x = let("scaled_weight", T.Select(masked, const(0.0), scaled))
        store(self.top, lanes(0), T.max(self.top[lanes(0)], x))
        return x

    def end(self, query: Value) -> None:
        store(self.tops, (query, lanes(0)), self.top[lanes(0)])

    def finish(self, queries: Value, pages: int) -> None:
        kernel = self.kernel
        with serial(queries, "r") as r:
            peak = let("peak", max_lanes(self.tops[r, lanes(0)]))
            store(kernel.weight_scale, r, peak * T.float32(1 / 255))
            store(self.inverse, r, T.Select(peak > T.float32(1e-30), T.float32(255) / peak, T.float32(0)))
        with serial(queries, "r") as r:
            inverse = let("inverse", splat(self.inverse[r]))
            with unroll(pages, "p") as p:
                code = T.cast(fma(kernel.weights[r, lanes(p * PAGE)], inverse, const(0.5)), "int32x16")
                words = T.reinterpret("int32x4", T.cast(code, "uint8x16"))
                store(kernel.weight_codes, (r, T.ramp(p * (PAGE // WORD), 1, PAGE // WORD)), words)
