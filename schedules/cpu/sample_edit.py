"""Rows of logits with masks, biases and penalties: one copy of a row, then only the tokens concerned."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...runtime.sampler import reference
from ...runtime.sampler.reference import (
    ALLOWED,
    BANNED,
    BIASED,
    EDIT_FIELDS,
    EDIT_ROW,
    END,
    FREQUENCY,
    GENERATED,
    PENALTIES,
    PRESENCE,
    PROMPT,
    REPETITION,
    RESTRICTED,
)
from ..compat import PrimFunc, T, finish, tirx
from ..emit import Buffer, Value, buffer, i64, let, local, otherwise, parallel, prim_func, serial, store, when
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import LANES, const, fma1, lanes
from .sample_row import INFINITY

_DONE = -1
"""The count of a token whose penalties are paid."""


def _inputs(rng: np.random.Generator, *, vocab: int, n: int, rows: int, history: int) -> list[np.ndarray]:
    """Rows with every kind of change, in turns; some logits are impossible already."""
    logits = rng.normal(0, 3, (n, vocab)).astype(np.float32)
    logits[rng.random((n, vocab)) < 0.1] = -np.inf
    table, penalties = np.zeros((rows, EDIT_FIELDS), np.int64), np.zeros((rows, PENALTIES), np.float32)
    tokens: list[np.ndarray] = []
    begin = 0
    for i in range(rows):
        restricted = i % 3 == 2
        lengths = [vocab // 2 if restricted else 0, i % 4, min(i % 5, vocab), history, history // 2]
        mine = [rng.integers(0, vocab, length).astype(np.int32) for length in lengths]
        mine[2] = rng.permutation(vocab)[: lengths[2]].astype(np.int32)  # no token is biased twice
        table[i, EDIT_ROW], table[i, RESTRICTED] = rng.integers(0, n), restricted
        table[i, ALLOWED:] = np.cumsum([begin, *lengths])
        penalties[i] = (1.0, 1.3, 0.7)[i % 3], (0.0, 0.37)[i % 2], (0.0, -1.1, 0.9)[i % 3]
        tokens += mine
        begin += sum(lengths)
    biases = rng.normal(0, 20, begin).astype(np.float32)
    return [logits, table, penalties, np.concatenate(tokens), biases]


def _reference(
    logits: np.ndarray,
    table: np.ndarray,
    penalties: np.ndarray,
    tokens: np.ndarray,
    biases: np.ndarray,
    vocab: int,
) -> tuple[np.ndarray]:
    edited = np.empty((len(table), vocab), np.float32)
    reference.edit(logits, table, penalties, tokens, biases, edited)
    return (edited,)


@kernel(
    reference=_reference,
    inputs=_inputs,
    cost=lambda *, vocab, rows, history, **_: Cost(
        bytes=4 * rows * (2 * vocab + 3 * history), flops=3 * rows * history
    ),
    tolerance=Tolerance(0.0, "the same float32 operations on every token"),
    cases=[
        Case({"vocab": 1000}, {"n": 4, "rows": 12, "history": 300}),
        Case({"vocab": 5}, {"n": 2, "rows": 9, "history": 20}),
        Case({"vocab": 16}, {"n": 1, "rows": 2, "history": 0}),
    ],
)
def edit_logits(*, vocab: int, target: TargetProfile) -> PrimFunc:
    """logits float32 [n, vocab], table int64 [e, EDIT_FIELDS], penalties float32 [e, PENALTIES], tokens int32 [t], biases
    float32 [t] -> edited float32 [e, vocab], as `runtime.sampler.reference.edit` says."""
    e, t = tirx.Var("e", "int64"), tirx.Var("t", "int64")
    logits = buffer("logits", (tirx.Var("n", "int64"), vocab), "float32")
    table, penalties = buffer("table", (e, EDIT_FIELDS), "int64"), buffer("penalties", (e, PENALTIES), "float32")
    tokens, biases = buffer("tokens", (t,), "int32"), buffer("biases", (t,), "float32")
    edited = buffer("edited", (e, vocab), "float32")
    with prim_func([logits, table, penalties, tokens, biases, edited]) as made, parallel(e, "i") as i:
        row = let("row", table[i, EDIT_ROW])
        restricted = let("restricted", table[i, RESTRICTED] != 0)

        def listed(first: int, end: int) -> tuple[Value, Value]:
            return table[i, first], table[i, end] - table[i, first]

        with when(restricted):
            _fill(edited, i, vocab, None)
            begin, count = listed(ALLOWED, BANNED)
            with serial(count, "k") as k:
                token = let("token", i64(tokens[begin + k]))
                store(edited, (i, token), logits[row, token])
        with otherwise(restricted):
            _fill(edited, i, vocab, lambda at: logits[row, at])
        begin, count = listed(BANNED, BIASED)
        with serial(count, "k") as k:
            store(edited, (i, i64(tokens[begin + k])), T.float32(-INFINITY))
        begin, count = listed(BIASED, PROMPT)
        with serial(count, "k") as k:
            token = let("token", i64(tokens[begin + k]))
            store(edited, (i, token), edited[i, token] + biases[begin + k])
        _penalize(edited, i, vocab, penalties, tokens, listed(PROMPT, END), listed(GENERATED, END))
    return finish(made[0])


def _fill(edited: Buffer, i: Value, vocab: int, source: Any) -> None:
    """A row that is copied, or nothing but -inf."""
    with serial(vocab // LANES, "v") as v:
        at = lanes(v * LANES)
        store(edited, [i, at], source(at) if source else const(-INFINITY))
    for k in range(vocab // LANES * LANES, vocab):
        store(edited, (i, k), source(k) if source else T.float32(-INFINITY))


def _penalize(
    edited: Buffer,
    i: Value,
    vocab: int,
    penalties: Buffer,
    tokens: Buffer,
    history: tuple[Value, Value],
    generated: tuple[Value, Value],
) -> None:
    """Walk the history three times, so that only its tokens are touched: forget, count, and change each token once."""
    counts = local("counts", (vocab,), "int32")

    def each(listed: tuple[Value, Value], body: Any) -> None:
        with serial(listed[1], "k") as k:
            body(let("token", i64(tokens[listed[0] + k])))

    def change(token: Value) -> None:
        with when(counts[token] != _DONE):
            x, times = edited[i, token], T.cast(counts[token], "float32")
            repetition, paid = penalties[i, REPETITION], local("paid", (1,), registers=True)
            store(paid, 0, T.Select(x > T.float32(0), x / repetition, x * repetition))
            with when(counts[token] > 0):
                less = fma1(T.float32(0) - penalties[i, FREQUENCY], times, paid[0])
                store(paid, 0, less - penalties[i, PRESENCE])
            store(edited, (i, token), paid[0])
            store(counts, token, T.int32(_DONE))

    each(history, lambda token: store(counts, token, T.int32(0)))
    each(generated, lambda token: store(counts, token, counts[token] + 1))
    each(history, change)
