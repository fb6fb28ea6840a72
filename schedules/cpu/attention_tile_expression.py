"""One KV tile of attention from expressions: any placement of keys and values in a record, without register blocking.

The tile body of storages that have no micro-kernel of their own; also what micro-kernels are compared with, bit by bit, since it
does the same operations in the same order. Where V is a view of K's page (latent attention: DeepSeek's MLA reads its values
from the compressed keys), the value expression is a strided one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ...runtime.plans import PAGE
from ..compat import T, tirx
from ..emit import Buffer, Value, i64, let, local, serial, store
from ..lanes import in_lanes
from ..vector import LANES, Vec, const, fma, lanes, splat, widen
from .attention_group import Group
from .attention_tile import FloatTile, KVTile, mask_rest
from .spans import fma_span, full


@dataclasses.dataclass(frozen=True)
class Placement:
    """Offsets in a record: `key(d, slot)` of dimension d of a token's key, `value(slot, e)` of its value."""

    key: Callable[[Value, Value], Value]
    value: Callable[[Value, Value], Value]


def separate(key_dim: int, value_dim: int) -> Placement:
    """K as [key_dim][16 tokens], then V as [16 tokens][value_dim]: what FloatTile reads."""
    return Placement(lambda d, slot: d * PAGE + slot, lambda slot, e: PAGE * key_dim + slot * value_dim + e)


def shared(key_dim: int, value_dim: int) -> Placement:
    """K as [key_dim][16 tokens]; a value is the first value_dim dimensions of its key."""
    return Placement(lambda d, slot: d * PAGE + slot, lambda slot, e: e * PAGE + slot)


class ExpressionTile(FloatTile):
    """Scores and values by the expressions of a placement; queries as in FloatTile."""

    def __init__(self, group: Group, key_dim: int, value_dim: int, kv_dtype: str, placement: Placement) -> None:
        super().__init__(group, key_dim, value_dim, kv_dtype)
        self.placement = placement

    def score(self, tile: KVTile, blocks: Value, finish: Callable[[Value, Value, Vec], Vec]) -> None:
        """Scores of the pages that some query sees, query by query; MASKED for the others."""
        slot = tirx.Var("slot", "int64")
        pages = tile.page_hi - tile.page_lo
        mask_rest(self.weights, blocks * self.group.block, pages)
        with serial(blocks * self.group.block, "query") as query, serial(pages, "step") as step:
            p = let("p", tile.page_lo + step)
            x = local("x", (LANES,), registers=True)
            store(x, lanes(0), const(0.0))
            with serial(self.key_dim, "d") as d:
                load = tile.at(p, self.placement.key(i64(d), slot))
                key = widen(in_lanes(load, {slot: lanes(i64(0))}), self.kv_dtype)
                store(x, lanes(0), fma(key, splat(self.q[query, d]), x[lanes(0)]))
            store(self.weights, (query, lanes(p * PAGE)), finish(query, p, x[lanes(0)]))

    def accumulate(self, tile: KVTile, blocks: Value, acc: Buffer) -> None:
        """acc += weights times values, token by token; only tokens in [lo, hi) are read."""
        whole, tail = self.value_dim // LANES, self.value_dim % LANES
        with serial(blocks * self.group.block, "query") as query, serial(tile.hi - tile.lo, "step") as step:
            t = let("t", tile.lo + step)
            p, slot = let("p", T.truncdiv(t, i64(PAGE))), let("slot", T.truncmod(t, i64(PAGE)))
            e = tirx.Var("e", "int64")
            with serial(whole, "c") as c:
                load = tile.at(p, self.placement.value(slot, e))
                value = widen(in_lanes(load, {e: lanes(i64(c) * LANES)}), self.kv_dtype)
                at = lanes(c * LANES)
                store(acc, (query, at), fma(splat(self.weights[query, t]), value, acc[query, at]))
            for last in range(whole * LANES, whole * LANES + tail):
                load = tile.at(p, self.placement.value(slot, i64(last)))
                weight = full(self.weights[query, t], 1)
                store(acc, (query, last), fma_span(weight, widen(load, self.kv_dtype, 1), acc[query, last], 1))
