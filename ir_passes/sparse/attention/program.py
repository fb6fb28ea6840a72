"""Attention in stage I: eight steps over any format whose coordinates begin with the row, and the merge of two states.

    dot    D[i, j, h] = sum of Q[i, h, d] * K[j, g, d]   (g: the kv head of h)      score  S[i, j, h] = score(D)
    peak   M[i, h]    = max of S        weight  P[i, j, h] = exp(S[i, j, h] - M[i, h])
    total  L[i, h]    = sum of P        mix     A[i, h, d] = sum of P[i, j, h] * V[j, g, d]
    norm   O[i, h, d] = A / L           lse     Z[i, h]    = M + log L

A sparse mask is a matrix format; a causal or windowed one a format's `valid`; the pages of a KV cache a page table. O and Z are
the softmax state (`monoid.SoftmaxState`) of the format's entries: states of formats that have no entry in common (prefix and
suffix of a sequence, segments) merge to that of their union. Rows without entries have O = 0 and the lowest Z.

`rewrites.fuse_rows` makes one pass over every row of it. The kernel (`kernel.py`) computes the same with explicit vectors and a
running maximum over tiles; the tests compare both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ....runtime.plans import PAGE
from ....schedules.compat import T, tirx
from ..axes import DenseFixed, Point, SparseVariable, Value, buffer, index
from ..expr import substitute
from ..format import Format
from ..iteration import Iteration, Program, coords
from ..monoid import SoftmaxState
from ..tensor import Tensor
from .spec import AttentionSpec
from .variant import Variant

Expr = Any
STEPS = ("dot", "score", "peak", "weight", "total", "mix", "norm", "lse")
TINY = 1e-30  # what the weights of a row without entries count as: far below those of any other, which are 1 at least


@dataclasses.dataclass(frozen=True, eq=False)
class Operands:
    """Where keys and values come from: `key(coordinates, kv head, dimension)`, `value` alike, and the tensors that they read."""

    key: Callable[[Sequence[Expr], Expr, Expr], Expr]
    value: Callable[[Sequence[Expr], Expr, Expr], Expr]
    tensors: tuple[Tensor, ...]


def dense_operands(tokens: Value, kv_heads: int, key_dim: int, value_dim: int) -> Operands:
    """K float32 [tokens, kv_heads, key_dim] and V alike, for formats with the coordinates (row, token)."""
    k, v = Tensor("K", (tokens, kv_heads, key_dim)), Tensor("V", (tokens, kv_heads, value_dim))
    return Operands(lambda at, g, d: k[at[1], g, d], lambda at, g, d: v[at[1], g, d], (k, v))


def attention(
    fmt: Format,
    extents: Sequence[Value],
    operands: Operands,
    *,
    heads: int,
    kv_heads: int,
    key_dim: int,
    value_dim: int,
    score: Callable[[Expr], Expr],
    depth: int | None = None,
) -> Program:
    """The eight steps over a format with coordinates (row, ...) of these extents.

    With `depth`, rows are the points of the first levels of the format, and the last two steps walk these: what `fuse_rows`
    needs. Otherwise they run over all rows.
    Parameters: the format's arrays, Q [rows, heads, key_dim], the operands, then D, S, M, P, L, A and the results O and Z.
    """
    rows, sharing = extents[0], heads // kv_heads
    q = Tensor("Q", (rows, heads, key_dim))
    s, p = (Tensor(name, (*extents, heads), fmt) for name in "SP")
    peak, total, lse = (Tensor(name, (rows, heads)) for name in "MLZ")
    mixed, out = (Tensor(name, (rows, heads, value_dim)) for name in "AO")
    at = coords(" ".join(f"x{n}" for n in range(len(extents))))
    row, (g, r, d) = at[0], coords("g r d")
    h, group = g * sharing + r, {g: kv_heads, r: sharing}
    here = (*at, h)

    def step(name: str, target: Expr, value: Expr, combine: str | None = None, **options: Any) -> Iteration:
        free = options.pop("free", group)
        return Iteration(name, fmt, at, free, target, value, combine, **options)

    dot = Tensor("D", (*extents, heads), fmt)
    product = q[row, h, d] * operands.key(at, g, d)
    weighted = p[here] * operands.value(at, g, d)
    steps = (
        step("dot", dot[here], product, "sum", free={**group, d: key_dim}, masked=False),
        step("score", s[here], score(dot[here])),
        step("peak", peak[row, h], s[here], "max"),
        step("weight", p[here], tirx.exp(s[here] - peak[row, h])),
        step("total", total[row, h], p[here], "sum"),
        step("mix", mixed[row, h, d], weighted, "sum", free={**group, d: value_dim}),
        *_finish(fmt if depth else None, at, rows, group, (d, value_dim), (peak, total, mixed, out, lse), h, depth),
    )
    tensors = (q, *operands.tensors, dot, s, peak, p, total, mixed, out, lse)
    return Program("attention", steps, tensors, (*fmt.aux, *tensors))


def _finish(
    walk: Format | None,
    at: Sequence[Any],
    rows: Value,
    heads: dict[Any, int],
    column: tuple[Any, int],
    tensors: Sequence[Tensor],
    h: Expr,
    depth: int | None,
) -> tuple[Iteration, Iteration]:
    """The state of every row from its sums."""
    peak, total, mixed, out, lse = tensors
    row, free = at[0], heads if walk else {at[0]: rows, **heads}
    below = T.max(total[row, h], T.float32(TINY))
    d, value_dim = column
    points = tuple(at) if walk else ()
    norm = mixed[row, h, d] / below
    return (
        Iteration("norm", walk, points, {**free, d: value_dim}, out[row, h, d], norm, depth=depth),
        Iteration("lse", walk, points, free, lse[row, h], peak[row, h] + tirx.log(below), depth=depth),
    )


def merge_states(rows: Value, heads: int, value_dim: int) -> Program:
    """(O, Z) of two disjoint sets of entries to that of both: parameters O1, Z1, O2, Z2, then O and Z."""
    o1, o2, out = (Tensor(name, (rows, heads, value_dim)) for name in ("O1", "O2", "O"))
    z1, z2, lse = (Tensor(name, (rows, heads)) for name in ("Z1", "Z2", "Z"))
    i, h, d = coords("i h d")
    both = SoftmaxState(o1[i, h, d], z1[i, h]).merge(SoftmaxState(o2[i, h, d], z2[i, h]))
    alone = SoftmaxState(T.float32(0), z1[i, h]).merge(SoftmaxState(T.float32(0), z2[i, h]))
    steps = (
        Iteration("values", None, (), {i: rows, h: heads, d: value_dim}, out[i, h, d], both.o),
        Iteration("weights", None, (), {i: rows, h: heads}, lse[i, h], alone.lse),
    )
    tensors = (o1, z1, o2, z2, out, lse)
    return Program("merge_states", steps, tensors, tensors)


class SequencePages(SparseVariable):
    """The pages of the sequence that a row belongs to: all rows of a sequence have the same entries of one page table."""

    kind = "pages of the row's sequence"

    def __init__(self, name: str, pages: Value, entries: Value, sequences: Value, rows: Value) -> None:
        super().__init__(name, pages, entries, sequences, "page_", ordered=False)
        self.sequence = buffer("row_seq", (rows,), "int32")

    @property
    def aux(self) -> tuple[Any, ...]:
        return (self.indptr, self.sequence, self.indices)

    def extent(self, parent: Value) -> Value:
        return super().extent(index(self.sequence[parent]))

    def position(self, parent: Value, x: Value) -> Value:
        return super().position(index(self.sequence[parent]), x)


def paged_rows(rows: Value, sequences: Value, pages: Value, entries: Value, tokens: Value, variant: Variant) -> Format:
    """The walk of attention over pages: rows of a step, the pages of each row's sequence, the tokens of a page.

    Coordinates are (row, token, page, offset), the token being the position in the sequence, below `tokens`; what a row sees is
    the variant's expression over the arrays first [rows] and last [rows].
    """
    first, last = (buffer(name, (rows,), "int32") for name in ("first", "last"))
    levels = (DenseFixed("I", rows), SequencePages("P", pages, entries, sequences, rows), DenseFixed("T", PAGE))

    def token(page: Point, t: Point) -> Value:
        return page.rel * PAGE + t.coord

    def valid(i: Point, page: Point, t: Point) -> Value:
        values = {variant.token: T.cast(token(page, t), "int32"), variant.row: i.coord}
        values |= {variant.first: first[i.coord], variant.limit: last[i.coord]}
        return substitute(variant.visible, values)

    def coordinates(i: Point, page: Point, t: Point) -> tuple[Value, ...]:
        return i.coord, T.min(token(page, t), index(tokens) - 1), page.coord, t.coord

    return Format("paged_rows", levels, coordinates, valid, (first, last))


def paged_operands(spec: AttentionSpec, pages: Value, layer: int) -> Operands:
    """Keys and values in the records of a cache [pages, layers, kv_heads, record] of float32 or float16."""
    cache = Tensor("cache", (pages, spec.layers, spec.kv_heads, spec.record), dtype=spec.kv_dtype)

    def key(at: Sequence[Expr], g: Expr, d: Expr) -> Expr:
        return T.cast(cache[at[2], layer, g, d * PAGE + at[3]], "float32")

    def value(at: Sequence[Expr], g: Expr, d: Expr) -> Expr:
        if spec.shared_values:
            return key(at, g, d)
        return T.cast(cache[at[2], layer, g, PAGE * spec.key_dim + at[3] * spec.value_dim + d], "float32")

    return Operands(key, value, (cache,))
