"""The variants of attention as expressions over coordinates: which keys a query sees, and what becomes of a raw score.

They are ordinary scalar expressions of the format layer. The lowering puts them into 16 lanes, with the token as the vector
(`schedules.lanes`), whatever kernel computes the raw scores.
"""

from __future__ import annotations

import dataclasses

from ....schedules.compat import T, tirx
from ....schedules.emit import Buffer, Value
from .spec import AttentionSpec


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """`score` over `raw` and the coordinates; `visible` over the coordinates; both are scalar expressions.

    Coordinates: `row` int64 in the step, `head` int64, `token` int32 (the key's position), `first` and `limit` int32 (the
    interval of tokens that the row sees).
    """

    raw: tirx.Var
    row: tirx.Var
    head: tirx.Var
    token: tirx.Var
    first: tirx.Var
    limit: tirx.Var
    score: Value
    visible: Value

    def __str__(self) -> str:
        return f"score = {self.score}\nvisible = {self.visible}"


def bounds(spec: AttentionSpec, position: Value, limit: Value) -> tuple[Value, Value]:
    """The interval [first, last] of tokens (int32) that a row at `position` sees, `sinks` aside."""
    first = T.max(position - (spec.window - 1), T.int32(0)) if spec.window else T.int32(0)
    last = T.min(position + spec.lookahead, limit) if spec.lookahead >= 0 else limit
    return first, last


def variant(spec: AttentionSpec, plan: Buffer) -> Variant:
    """The expressions of a layer; the masks of trees stand in the plan."""
    raw = tirx.Var("raw", "float32")
    row, head = (tirx.Var(n, "int64") for n in ("row", "head"))
    token, first, limit = (tirx.Var(n, "int32") for n in ("token", "first", "limit"))
    score = raw
    if spec.softcap:
        score = tirx.tanh(raw * T.float32(1 / spec.softcap)) * T.float32(spec.softcap)
    visible = token <= limit
    if spec.window:
        recent = token >= first
        visible = tirx.And(visible, tirx.Or(recent, token < spec.sinks) if spec.sinks else recent)
    if spec.layout.tree_words:
        visible = tirx.And(visible, _in_tree(spec, plan, row, token))
    return Variant(raw, row, head, token, first, limit, score, visible)


def _in_tree(spec: AttentionSpec, plan: Buffer, row: Value, token: Value) -> Value:
    """Whether a token is before the tree of the row, or one of its ancestors there (their bits are in the plan)."""
    layout = spec.layout
    at = T.int64(layout.tree) + row * layout.tree_fields
    node = token - plan[at]
    words = [plan[at + 1 + w] for w in range(layout.tree_words)]
    word = words[-1]
    for w in reversed(range(layout.tree_words - 1)):
        word = tirx.Select(node < 32 * (w + 1), words[w], word)
    bit = T.bitwise_and(T.shift_right(word, T.bitwise_and(node, T.int32(31))), T.int32(1))
    return tirx.Or(node < 0, bit == 1)
