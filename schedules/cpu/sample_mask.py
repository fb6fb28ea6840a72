"""Forbids tokens in rows of logits: a mask has a bit for each token, which is 0 where it cannot come next."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...runtime.sampler import reference
from ...runtime.sampler.reference import WORD, words
from ..compat import PrimFunc, T, finish, tirx
from ..emit import Value, buffer, i64, let, otherwise, parallel, prim_func, serial, store, when
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import LANES, const, lanes
from .sample_row import INFINITY, PARALLEL_UNITS


def _inputs(rng: np.random.Generator, *, vocab: int, n: int, rows: int) -> list[np.ndarray]:
    """Masks that allow little, almost everything, all, none, and runs."""
    logits = rng.normal(0, 3, (n, vocab)).astype(np.float32)
    logits[rng.random((n, vocab)) < 0.1] = np.nan
    bits = np.zeros((rows, words(vocab) * WORD), bool)
    for i in range(rows):
        bits[i] = rng.random(bits.shape[1]) < (0.01, 0.99, 1.0, 0.0, 0.5)[i % 5]
        bits[i, : (i % 3) * WORD] = True
    masks = np.packbits(bits, axis=1, bitorder="little").view(np.int32)
    return [logits, rng.permutation(n)[:rows], masks]


def _reference(logits: np.ndarray, rows: np.ndarray, masks: np.ndarray, **_: Any) -> tuple[np.ndarray]:
    reference.mask(logits, rows, masks)
    return (logits,)


@kernel(
    reference=_reference,
    inputs=_inputs,
    cost=lambda *, vocab, rows, **_: Cost(bytes=4 * rows * vocab, flops=0),
    tolerance=Tolerance(0.0, "logits stay, or become -inf"),
    cases=[
        Case({"vocab": 1000}, {"n": 15, "rows": 12}),
        Case({"vocab": 5}, {"n": 9, "rows": 9}),
        Case({"vocab": 64}, {"n": 3, "rows": 2}),
        Case({"vocab": 32003}, {"n": 7, "rows": 6}),
    ],
    num_outputs=0,
    inplace=(0,),
)
def mask_logits(*, vocab: int, target: TargetProfile) -> PrimFunc:
    """logits float32 [n, vocab], changed in place; rows int64 [m], masks int32 [m, words(vocab)], as
    `runtime.sampler.reference.mask` says."""
    m, whole = tirx.Var("m", "int64"), vocab // WORD
    logits = buffer("logits", (tirx.Var("n", "int64"), vocab), "float32")
    rows, masks = buffer("rows", (m,), "int64"), buffer("masks", (m, words(vocab)), "int32")

    def mask_word(bits: Value, row: Value, word: Value) -> None:
        nothing = let("nothing", bits == 0)
        for half in range(0, WORD, LANES):
            at = lanes(word * WORD + half)
            with when(nothing):  # the usual word of a grammar: its logits are not even read
                store(logits, [row, at], const(-INFINITY))
            with otherwise(nothing):
                shifted = T.shift_right(T.broadcast(bits, LANES), T.ramp(T.int32(half), 1, LANES))
                allowed = T.bitwise_and(shifted, T.broadcast(T.int32(1), LANES)) != T.broadcast(T.int32(0), LANES)
                store(logits, [row, at], T.Select(allowed, logits[row, at], const(-INFINITY)))

    with prim_func([logits, rows, masks]) as made:
        parts = let("parts", T.max(T.truncdiv(i64(PARALLEL_UNITS), T.max(m, i64(1))), i64(1)))
        with parallel(m * parts, "unit") as unit:
            i, number = let("i", T.truncdiv(unit, parts)), let("number", T.truncmod(unit, parts))
            row = let("row", rows[i])
            first, end = (let("bound", T.truncdiv((number + k) * whole, parts)) for k in (0, 1))
            with serial(end - first, "w") as w:
                word = let("word", first + w)
                bits = let("bits", masks[i, word])
                with when(bits != -1):  # the usual word inside of a text: nothing is forbidden
                    mask_word(bits, row, word)
            if vocab > whole * WORD:
                with when(number == 0), serial(vocab - whole * WORD, "k") as k:
                    bit = T.bitwise_and(T.shift_right(masks[i, whole], T.cast(k, "int32")), T.int32(1))
                    with when(bit == 0):
                        store(logits, (row, whole * WORD + k), T.float32(-INFINITY))
    return finish(made[0])
