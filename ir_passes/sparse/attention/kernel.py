"""Attention over the paged cache as one compiled kernel: row items (decode), tiles of rows (prefill, prefixes), merges."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ....runtime.plans import PlanLayout
from ....runtime.plans.layout import MERGES, ROW_ITEMS, TILES, WORKERS
from ....schedules.compat import PrimFunc, T, finish, tirx
from ....schedules.cpu.attention_group import query_group
from ....schedules.cpu.attention_reference import attention_cost, attention_inputs, attention_reference
from ....schedules.cpu.softmax_state import SoftmaxState
from ....schedules.emit import Value, buffer, let, parallel, prim_func, serial, when
from ....schedules.registry import Case, Tolerance, kernel
from ....schedules.target import TargetProfile
from ....schedules.vector import LANES, storage
from .finish import merge_row
from .spec import AttentionSpec
from .variant import variant
from .walk import Operands, Walk


def state_width(value_dim: int) -> int:
    """Floats of one state in memory: values in whole vectors, then maximum and sum."""
    return (-(-value_dim // LANES) + 1) * LANES


def states_shape(
    *, heads: int, head_dim: int, max_tokens: int, max_seqs: int, value_dim: int = 0, **_: Any
) -> list[tuple[int, ...]]:
    """Shape of the states that segments leave for a later merge."""
    return [(PlanLayout(max_tokens, max_seqs).max_states, heads, state_width(value_dim or head_dim))]


NO_VARIANT = {"lookahead": -1, "sinks": 0, "softcap": 0.0, "tree_words": 0, "max_tokens": 128, "max_seqs": 4}


def _case(
    heads: int,
    kv_heads: int,
    head_dim: int,
    kv_dtype: str,
    window: int,
    rows: str,
    seqs: int,
    start: int,
    new: int,
    **variants: Any,
) -> Case:
    params = {"layers": 2, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "kv_dtype": kv_dtype}
    params |= {"value_dim": head_dim, "scale": head_dim**-0.5, "window": window, "rows": rows} | NO_VARIANT
    rounding = Tolerance(2e-2, "queries and weights are rounded to 8 bits") if kv_dtype == "int8" else None
    return Case(params | variants, {"seqs": seqs, "start": start, "new": new}, rounding)


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
        _case(8, 2, 64, "float32", 0, "any", 2, 30, 5, value_dim=40),
        _case(8, 1, 72, "float16", 0, "any", 2, 150, 3, value_dim=40, shared_values=True),
        _case(14, 2, 64, "int8", 0, "any", 3, 100, 40),
        _case(4, 4, 40, "int8", 90, "row", 2, 2100, 3),
    ],
    scratch=states_shape,
)
def attention(
    *,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    kv_dtype: str,
    scale: float,
    rows: str,
    max_tokens: int,
    max_seqs: int,
    target: TargetProfile,
    value_dim: int = 0,
    window: int = 0,
    lookahead: int = -1,
    sinks: int = 0,
    softcap: float = 0.0,
    sink_logits: bool = False,
    shared_values: bool = False,
    body: str = "kernel",
    tree_words: int = 0,
) -> PrimFunc:
    """q float32 [n, heads * head_dim], positions int32 [n], plan, cache, layer -> float32 [n, heads * value_dim], states.

    `sink_logits` adds an input float32 [heads] after `layer`. The states float32 [max_states, heads, ...] are scratch of rows
    whose segments several tasks serve. `rows="row"` serves the plan's row items only, `rows="any"` items and tiles.
    `AttentionSpec` says what the variants mean. Dao et al., FlashAttention; Kwon et al., PagedAttention; Ye et al., FlashInfer.
    """
    if rows not in ("row", "any"):
        raise ValueError(f"unknown rows={rows!r}; choose row (row items only) or any (row items and tiles)")
    layout = PlanLayout.of(max_tokens, max_seqs, heads=heads, kv_heads=kv_heads, tree_words=tree_words)
    spec = AttentionSpec(
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        key_dim=head_dim,
        value_dim=value_dim or head_dim,
        kv_dtype=kv_dtype,
        scale=scale,
        layout=layout,
        window=window,
        lookahead=lookahead,
        sinks=sinks,
        softcap=softcap,
        sink_logits=sink_logits,
        shared_values=shared_values,
        body=body,
    )
    return emit_attention(spec, rows, target)


@contextlib.contextmanager
def _units(operands: Operands, work: int, count: int, worker: Value) -> Iterator[tuple[Value, Value]]:
    """A worker's run of units: item u % items of kv head u // items. Heads are outermost, so that a page is read by one worker."""
    items = let("items", T.max(operands.number(count), T.int64(1)))
    begin = let("begin_unit", operands.number(work + worker))
    with serial(operands.number(work + worker + 1) - begin, "step_unit") as step:
        unit = let("unit", begin + step)
        head = let("head", T.truncdiv(unit, items))
        yield let("item", unit - head * items), head


def emit_attention(spec: AttentionSpec, rows: str, target: TargetProfile) -> PrimFunc:
    """The three parts of the kernel, each over the plan's own division of work."""
    layout = spec.layout
    n, p, pages = (tirx.Var(name, "int64") for name in ("n", "p", "pages"))
    operands = Operands(
        q=buffer("q", (n, spec.heads * spec.key_dim), "float32", align=64),
        positions=buffer("positions", (n,), "int32"),
        plan=buffer("plan", (p,), "int32"),
        cache=buffer("cache", (pages, spec.layers, spec.kv_heads, spec.record), storage(spec.kv_dtype), align=64),
        layer=tirx.Var("layer", "int64"),
        states=buffer("states", (layout.max_states, spec.heads, state_width(spec.value_dim)), "float32", align=64),
        out=buffer("out", (n, spec.heads * spec.value_dim), "float32", align=64),
        sink_logits=buffer("sink_logits", (spec.heads,), "float32") if spec.sink_logits else None,
    )
    expressions = variant(spec, operands.plan)
    inputs: list[Any] = [operands.q, operands.positions, operands.plan, operands.cache, operands.layer]
    inputs += [operands.sink_logits] if operands.sink_logits is not None else []
    with prim_func([*inputs, operands.out, operands.states]) as made:
        with parallel(operands.number(WORKERS), "worker") as worker:
            walk = Walk(spec, query_group(1, spec.sharing, target), operands, expressions, target)
            with _units(operands, layout.row_work, ROW_ITEMS, worker) as (item, head):
                at = let("at", layout.row_item + item * 3)
                row, first, end = (let(s, operands.number(at + i)) for i, s in enumerate(("row", "first", "end")))
                walk.task(T.int64(1), None, row, head, first, end)
        if rows == "any":
            with parallel(operands.number(WORKERS), "worker") as worker:
                group = query_group(layout.tile_rows, spec.sharing, target)
                walk = Walk(spec, group, operands, expressions, target)
                with _units(operands, layout.tile_work, TILES, worker) as (item, head):
                    at = let("at", layout.tile + item * 4)
                    names = enumerate(("start", "count_rows", "first", "end"))
                    start, count, first, end = (let(s, operands.number(at + i)) for i, s in names)
                    walk.task(count, layout.tile_row + start, T.int64(0), head, first, end)
        merges = let("merges", operands.number(MERGES))
        with when(merges > 0), parallel(merges * spec.kv_heads, "unit") as unit:
            state = SoftmaxState(spec.sharing, -(-spec.value_dim // LANES))
            row = let("row", operands.number(layout.merge + T.truncdiv(unit, T.int64(spec.kv_heads))))
            merge_row(
                spec,
                state,
                states=operands.states,
                plan=operands.plan,
                positions=operands.positions,
                out=operands.out,
                sink_logits=operands.sink_logits,
                row=row,
                kv_head=T.truncmod(unit, T.int64(spec.kv_heads)),
            )
    return finish(made[0])
