"""What the sampler's kernels compute, in NumPy: the definition that the compiled ones match bit by bit.

Probabilities are integers: the most likely token of a row weighs 2**40, the others in proportion, rounded down. Their sums
are exact, so no order of summing, vector width or division among threads changes any choice.
"""

from __future__ import annotations

import itertools

import numpy as np

from .draw import NO_TOKEN

# Fields of a row that is to be drawn: which row of the logits, 1 for the most likely token, how many candidates (0: all), the
# sums that they may reach and the random number in units of 2**-62.
ROW, GREEDY, TOP_K, TOP_P, TYPICAL_P, RANDOM = range(6)
DRAW_FIELDS = 6
UNIT_BITS = 62
UNIT = 1 << UNIT_BITS  # the whole sum, and what no random number reaches

# Its float32 fields: 1 / temperature, and the least logarithm of a candidate's probability over the largest one.
SCALE, FLOOR = range(2)
SCALE_FIELDS = 2

# Fields of a row that is to be edited: which row, whether only listed tokens are allowed, and where its tokens begin in the
# list of tokens: allowed, banned, biased, of the prompt, generated; and where they end.
EDIT_ROW, RESTRICTED, ALLOWED, BANNED, BIASED, PROMPT, GENERATED, END = range(8)
EDIT_FIELDS = 8
REPETITION, FREQUENCY, PRESENCE = range(3)
PENALTIES = 3

WORD = 32
"""Tokens of an element of a mask: token t is bit t % 32 of element t // 32."""

# Results of a row that is to be ranked: the sum of its weights (0 where the row is unusable), and the token's rank.
TOTAL, RANK = range(2)

WEIGHT_BITS = 40
LEAST = -30.0
"""A logarithm under which a weight is 0 in any case."""

MAX_VOCABULARY = 1 << 20
"""So many weights, and so many products of weight and information, have a sum below 2**63."""

INFORMATION_BITS = 16
"""Fraction bits of a logarithm when information is compared."""


def words(vocab: int) -> int:
    """Elements of a mask of `vocab` tokens."""
    return -(-vocab // WORD)


def fma(a: np.ndarray | np.floating, b: np.ndarray | np.floating, c: np.ndarray | np.floating) -> np.ndarray:
    """float32 a * b + c with one rounding: the sum in float64 rounded to odd, which float32 then rounds right (Boldo and
    Melquiond, 2008)."""
    with np.errstate(invalid="ignore", over="ignore"):
        product = np.asarray(a, np.float64) * np.asarray(b, np.float64)  # exact
        wide = np.asarray(c, np.float64)
        total = product + wide
        back = total - product
        error = (product - (total - back)) + (wide - back)
        bits = total.view(np.int64)
        toward = np.where((error > 0) == (total > 0), 1, -1)
        bits = np.where(np.isfinite(total) & (error != 0) & (bits & 1 == 0), bits + toward, bits)
        return bits.view(np.float64).astype(np.float32)


def weights(z: np.ndarray) -> np.ndarray:
    """e**z * 2**40 for float32 z <= 0, rounded down: int64. The operations are those of `schedules.vector.exp`."""
    x = np.maximum(z, np.float32(-40))
    n = np.rint(x * np.float32(1.4426950408889634))
    f = fma(n, np.float32(2.12194440e-4), fma(n, np.float32(-0.693359375), x))
    p = np.full_like(f, 1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = fma(p, f, np.float32(c))
    p = fma(p, f * f, f) + np.float32(1)
    mantissa = (p * np.float32(2**30)).astype(np.int32).astype(np.int64)
    return (mantissa << (WEIGHT_BITS - 30)) >> -n.astype(np.int64)


def part(total: int, fraction: int) -> int:
    """floor(total * fraction / 2**62)."""
    return (int(total) * int(fraction)) >> UNIT_BITS


def usable(row: np.ndarray) -> bool:
    """Whether a row has a largest logit: no NaN, no +inf, not -inf alone."""
    return bool(np.isfinite(row.max()))  # NaN if there is one


def choose(logits: np.ndarray, table: np.ndarray, scales: np.ndarray, tokens: np.ndarray) -> None:
    """Fill `tokens` int32[m] for the rows of `table` int64[m, DRAW_FIELDS] and `scales` float32[m, SCALE_FIELDS]."""
    for i, fields in enumerate(table.tolist()):
        row = logits[fields[ROW]]
        if not usable(row):
            tokens[i] = NO_TOKEN
        elif fields[GREEDY]:
            tokens[i] = row.argmax()
        else:
            tokens[i] = _draw(row, fields, scales[i])


def _draw(row: np.ndarray, fields: list[int], scale: np.ndarray) -> int:
    """Inverse CDF over the candidates in ascending order of token id."""
    with np.errstate(over="ignore"):
        z = (row - row.max()) * scale[SCALE]
    ids = np.flatnonzero(z >= max(scale[FLOOR], np.float32(LEAST)))
    if 0 < fields[TOP_K] < len(ids):
        ids = np.sort(ids[np.lexsort((ids, -row[ids]))[: fields[TOP_K]]])
    weight = weights(z[ids])
    if fields[TOP_P] < UNIT:
        kept = _reach(np.lexsort((ids, -row[ids])), weight, fields[TOP_P])
        ids, weight = ids[kept], weight[kept]
    if fields[TYPICAL_P] < UNIT:
        information = (-z[ids] * np.float32(1 << INFORMATION_BITS)).astype(np.int64)
        coarse = weight >> 12
        expected = int((coarse * information).sum()) // int(coarse.sum())
        kept = _reach(np.lexsort((ids, np.abs(information - expected))), weight, fields[TYPICAL_P])
        ids, weight = ids[kept], weight[kept]
    cumulated = np.cumsum(weight)
    point = part(cumulated[-1], fields[RANDOM])
    return int(ids[np.searchsorted(cumulated, point, side="right")])


def _reach(order: np.ndarray, weight: np.ndarray, fraction: int) -> np.ndarray:
    """The fewest first of `order` whose weights reach the fraction of the sum, ascending."""
    cumulated = np.cumsum(weight[order])
    count = int(np.searchsorted(cumulated, part(cumulated[-1], fraction) + 1)) + 1
    return np.sort(order[:count])


def rank(
    logits: np.ndarray,
    wanted: np.ndarray,
    sums: np.ndarray,
    values: np.ndarray,
    top_ids: np.ndarray,
    top_values: np.ndarray,
) -> None:
    """For `wanted` int64[m, 2] (row, token): `sums` int64[m, 2] (TOTAL, RANK), `values` float32[m, 2] (the largest logit and
    the token's), and the n <= vocab largest logits as `top_ids` int32[m, n], ascending, and `top_values` float32[m, n].

    Nothing but TOTAL = 0 is filled for an unusable row.
    """
    for i, (at, token) in enumerate(wanted.tolist()):
        row = logits[at]
        sums[i, TOTAL] = 0
        if not usable(row):
            continue
        with np.errstate(over="ignore"):
            sums[i] = weights(row - row.max()).sum(), 1 + np.count_nonzero(row > row[token])
        values[i] = row.max(), row[token]
        top_ids[i] = np.sort(np.lexsort((np.arange(len(row)), -row))[: top_ids.shape[1]])
        top_values[i] = row[top_ids[i]]


def mask(logits: np.ndarray, rows: np.ndarray, masks: np.ndarray) -> None:
    """Put -inf into the different `rows` int64[m] of the logits where `masks` int32[m, words] have no bit."""
    bits = np.unpackbits(masks.view(np.uint8), axis=1, bitorder="little")[:, : logits.shape[1]]
    logits[rows] = np.where(bits, logits[rows], np.float32(-np.inf))


def edit(
    logits: np.ndarray,
    table: np.ndarray,
    penalties: np.ndarray,
    tokens: np.ndarray,
    biases: np.ndarray,
    edited: np.ndarray,
) -> None:
    """Copy the rows of `table` int64[e, EDIT_FIELDS] to `edited` float32[e, vocab] and change what their parameters say.

    `tokens` int32[t] and `biases` float32[t] (of the biased tokens) are the lists of all rows; `penalties` float32[e, 3].
    """
    for i, (at, restricted, *bounds) in enumerate(table.tolist()):
        row, out = logits[at], edited[i]
        lists = [slice(begin, end) for begin, end in itertools.pairwise(bounds)]
        allowed, banned, biased, prompt, generated = (tokens[part] for part in lists)
        out[:] = -np.inf if restricted else row
        out[allowed] = row[allowed]
        out[banned] = -np.inf
        out[biased] += biases[lists[2]]
        seen, counts = np.unique(generated, return_counts=True)
        if penalties[i, REPETITION] != 1:
            both = np.unique(np.concatenate([prompt, generated]))
            with np.errstate(over="ignore"):
                out[both] = np.where(
                    out[both] > 0, out[both] / penalties[i, REPETITION], out[both] * penalties[i, REPETITION]
                )
        out[seen] = fma(-penalties[i, FREQUENCY], counts.astype(np.float32), out[seen]) - penalties[i, PRESENCE]
