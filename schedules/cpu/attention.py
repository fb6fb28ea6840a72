"""Causal attention over the paged cache: rows one by one (decode), or rows and tiles of rows (prefill and mixed steps)."""

from __future__ import annotations

from ...runtime.plans import PlanLayout
from ...runtime.plans.layout import ROW_TASKS, TILE_FIELDS, TILES
from ..compat import PrimFunc, T, finish
from ..registry import Case, Tolerance, kernel
from ..target import TargetProfile
from ..vector import storage
from .attention_reference import attention_cost, attention_inputs, attention_reference
from .attention_tile import row_group, tile_group
from .attention_walk import walk_macro
from .kv_cache import record


def _case(
    heads: int, kv_heads: int, head_dim: int, kv_dtype: str, window: int, rows: str, seqs: int, start: int, new: int
) -> Case:
    params = {"layers": 2, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "kv_dtype": kv_dtype}
    params |= {"scale": head_dim**-0.5, "window": window, "rows": rows, "max_tokens": 128, "max_seqs": 4}
    return Case(params, {"seqs": seqs, "start": start, "new": new})


@kernel(
    reference=attention_reference,
    inputs=attention_inputs,
    cost=attention_cost,
    tolerance=Tolerance(2e-5, "a float32 softmax over tiles with a polynomial exponential"),
    cases=[
        _case(4, 4, 64, "float32", 0, "row", 2, 0, 1),
        _case(14, 2, 64, "float16", 0, "any", 3, 100, 40),
        _case(8, 1, 128, "bfloat16", 0, "any", 2, 2040, 33),
        _case(4, 2, 72, "float32", 50, "any", 2, 2100, 35),
        _case(4, 2, 80, "float16", 20, "row", 3, 300, 3),
    ],
)
def attention(
    *,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    kv_dtype: str,
    scale: float,
    window: int,
    rows: str,
    max_tokens: int,
    max_seqs: int,
    target: TargetProfile,
) -> PrimFunc:
    """q float32 [n, heads * head_dim], positions int32 [n], plan, cache, layer -> float32 [n, heads * head_dim].

    A query at position p sees the keys at positions in (p - window, p], or all up to p where window is 0. `rows="row"` serves
    the plan's row tasks only, `rows="any"` row tasks and tiles. Dao et al., FlashAttention; Kwon et al., PagedAttention.
    """
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads do not share {kv_heads} kv heads evenly")
    if rows not in ("row", "any"):
        raise ValueError(f"unknown rows={rows!r}; choose row (row tasks only) or any (row tasks and tiles)")
    layout = PlanLayout(max_tokens, max_seqs)
    sharing = heads // kv_heads
    attend_row = walk_macro(row_group(heads, kv_heads, target), head_dim, kv_dtype, scale, window)
    attend_tile = walk_macro(tile_group(target), head_dim, kv_dtype, scale, window)

    @T.prim_func(private=True, s_tir=True)
    def attend(q_: T.handle, positions_: T.handle, plan_: T.handle, cache_: T.handle, layer: T.int64, out_: T.handle):
        n, p, pages = T.int64(), T.int64(), T.int64()
        q = T.match_buffer(q_, (n, heads * head_dim), "float32", align=64)
        positions = T.match_buffer(positions_, (n,), "int32")
        plan = T.match_buffer(plan_, (p,), "int32")
        cache = T.match_buffer(cache_, (pages, layers, kv_heads, record(head_dim)), storage(kv_dtype), align=64)
        out = T.match_buffer(out_, (n, heads * head_dim), "float32", align=64)
        # Heads outermost: every thread gets the same share of every sequence, however long each is.
        for task in T.parallel(T.cast(plan[ROW_TASKS], "int64") * kv_heads):
            count: T.let[T.int64] = T.cast(plan[ROW_TASKS], "int64")
            head: T.let[T.int64] = task // count
            row: T.let[T.int64] = T.cast(plan[layout.row_task + task % count], "int64")
            first: T.let[T.int64] = T.cast(positions[row], "int64")
            seq: T.let[T.int64] = T.cast(plan[layout.row_seq + row], "int64")
            table: T.let[T.int64] = layout.pages + T.cast(plan[layout.page_indptr + seq], "int64")
            attend_row(q, plan, cache, out, layer, row, head * sharing, head, first, sharing, table)
        if rows == "any":
            for task in T.parallel(T.cast(plan[TILES], "int64") * heads):
                count: T.let[T.int64] = T.cast(plan[TILES], "int64")
                head: T.let[T.int64] = task // count
                tile: T.let[T.int64] = layout.tiles + task % count * TILE_FIELDS
                row: T.let[T.int64] = T.cast(plan[tile], "int64")
                first: T.let[T.int64] = T.cast(plan[tile + 2], "int64")
                seq: T.let[T.int64] = T.cast(plan[tile + 3], "int64")
                table: T.let[T.int64] = layout.pages + T.cast(plan[layout.page_indptr + seq], "int64")
                attend_tile(
                    q,
                    plan,
                    cache,
                    out,
                    layer,
                    row,
                    head,
                    head // sharing,
                    first,
                    T.cast(plan[tile + 1], "int64"),
                    table,
                )

    return finish(attend)
