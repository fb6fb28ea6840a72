"""The sampler: turns draws into the arrays of the kernels, and their results into tokens and log probabilities.

A row's choice depends on its logits and its draw, never on the other rows: the same seed gives the same text in any batch,
in any chunking and after a preemption.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..sampling import SamplingParams
from . import reference
from .draw import NO_TOKEN, Draw, Sampled, TokenLogprobs, random_bits
from .edits import edit_lists, needs_edits
from .reference import DRAW_FIELDS, EDIT_FIELDS, PENALTIES, RANK, SCALE_FIELDS, TOTAL, UNIT, UNIT_BITS, WEIGHT_BITS

_TINY, _HUGE = (float(x) for x in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))


@dataclasses.dataclass(frozen=True)
class SamplerKernels:
    """The functions of `reference`, or what does the same: they take arrays made by `empty`, and logits, which are copied where
    they are not as `aligned` makes them."""

    choose: Callable[..., object] = reference.choose
    rank: Callable[..., object] = reference.rank
    edit: Callable[..., object] = reference.edit
    mask: Callable[..., object] = reference.mask
    empty: Callable[[tuple[int, ...], str], np.ndarray] = np.zeros
    aligned: Callable[[np.ndarray], np.ndarray] = lambda logits: logits


class Sampler:
    """Chooses tokens with these kernels: an artifact's, or NumPy's where there is no compiled code."""

    def __init__(self, kernels: SamplerKernels | None = None) -> None:
        self.kernels = kernels or SamplerKernels()
        self._arrays: dict[str, np.ndarray] = {}

    def sample(self, logits: np.ndarray, draws: Sequence[Draw], rows: Sequence[int] | None = None) -> Sampled:
        """Choose a token for every draw from its row of `logits` float32[r, vocab].

        Logits stay as they are, but for the rows of draws with a mask: those may be masked afterwards. Draws of one row have the
        same mask.

        `rows` int[d] says which row belongs to each draw; without it they stand in order, one for each. A row that allows
        no choice gets NO_TOKEN and no log probabilities; equal logits go to the lower token id. Raises ValueError where
        draws and rows do not match, or a draw names a token that the logits do not have.
        """
        rows = _checked_rows(logits, len(draws), rows, "draw")
        tokens = np.empty(len(draws), np.int32)
        kept = [i for i, draw in enumerate(draws) if draw.mask is not None and draw.top is not None]
        if kept:  # their log probabilities are those of the model
            copied = self._copied(logits, [rows[i] for i in kept])
            self._mask(copied, {at: draws[i] for at, i in enumerate(kept)})
            self._settle(tokens, copied, {i: at for at, i in enumerate(kept)}, draws)
        masks = {rows[i]: draw for i, draw in enumerate(draws) if draw.mask is not None and draw.top is None}
        if masks:
            logits = self.kernels.aligned(logits)
            self._mask(logits, masks)
        self._settle(tokens, logits, {i: rows[i] for i in range(len(draws)) if i not in kept}, draws)
        return Sampled(tokens, self._report(logits, rows, tokens, draws))

    def logprobs(
        self, logits: np.ndarray, tokens: Sequence[int] | np.ndarray, top: int, rows: Sequence[int] | None = None
    ) -> list[TokenLogprobs | None]:
        """Log probabilities of one token of each row of `logits` float32[r, vocab], and of the `top` most likely ones.

        `rows` as in `sample`. None for a row with NaN, +inf, or nothing but -inf. Raises ValueError where tokens and rows
        do not match.
        """
        wanted = [
            (row, int(token))
            for row, token in zip(_checked_rows(logits, len(tokens), rows, "token"), tokens, strict=True)
        ]
        return [made and cut_top(made, top) for made in self._rank(logits, wanted, top)] if wanted else []

    def _settle(self, tokens: np.ndarray, logits: np.ndarray, rows: Mapping[int, int], draws: Sequence[Draw]) -> None:
        """Fill `tokens` for the draws that `rows` tells the rows of `logits` of."""
        changed = [i for i in rows if needs_edits(draws[i])]
        plain = [i for i in rows if i not in changed] if changed else list(rows)
        if plain:
            tokens[plain] = self._choose(logits, [rows[i] for i in plain], [draws[i] for i in plain])
        if changed:
            listed = [draws[i] for i in changed]
            edited = self._edit(logits, [rows[i] for i in changed], listed)
            tokens[changed] = self._choose(edited, list(range(len(changed))), listed)

    # The kernels' arrays.

    def _choose(self, logits: np.ndarray, rows: list[int], draws: list[Draw]) -> np.ndarray:
        empty = self.kernels.empty
        table, scales = empty((len(rows), DRAW_FIELDS), "int64"), empty((len(rows), SCALE_FIELDS), "float32")
        tokens = empty((len(rows),), "int32")
        settings = [draw_settings(draw.params) for draw in draws]
        table[:] = [
            (row, *fields, random_bits(draw.seed, draw.position) >> (64 - UNIT_BITS))
            for row, draw, (fields, _) in zip(rows, draws, settings, strict=True)
        ]
        scales[:] = [scale for _, scale in settings]
        self.kernels.choose(logits, table, scales, tokens)
        return tokens

    def _kept(self, name: str, rows: int, columns: int, dtype: str) -> np.ndarray:
        """An array that is used again: new memory costs more than what is done with it."""
        found = self._arrays.get(name)
        if found is None or len(found) < rows or found.shape[1] != columns:
            found = self._arrays[name] = self.kernels.empty((rows, columns), dtype)
        return found[:rows]

    def _copied(self, logits: np.ndarray, rows: list[int]) -> np.ndarray:
        copied = self._kept("copied", len(rows), logits.shape[1], "float32")
        np.take(logits, rows, axis=0, out=copied)
        return copied

    def _mask(self, logits: np.ndarray, draws: Mapping[int, Draw]) -> None:
        """Mask the rows of aligned logits that `draws` tells the draws of."""
        table = self.kernels.empty((len(draws),), "int64")
        masks = self._kept("masks", len(draws), reference.words(logits.shape[1]), "int32")
        table[:] = list(draws)
        for row, draw in zip(masks, draws.values(), strict=True):
            row[:] = draw.mask
        self.kernels.mask(logits, table, masks)

    def _edit(self, logits: np.ndarray, rows: list[int], draws: list[Draw]) -> np.ndarray:
        empty, (_, vocab) = self.kernels.empty, logits.shape
        table, penalties = empty((len(rows), EDIT_FIELDS), "int64"), empty((len(rows), PENALTIES), "float32")
        lists, biased = edit_lists(rows, draws, table, penalties)
        tokens, biases = empty((max(1, len(lists)),), "int32"), empty((max(1, len(lists)),), "float32")
        tokens[: len(lists)], biases[: len(lists)] = lists, biased
        if len(lists) and not (lists.min() >= 0 and lists.max() < vocab):
            raise ValueError(f"a draw names tokens {lists.min()} to {lists.max()}; the logits have 0 to {vocab - 1}")
        edited = self._kept("edited", len(rows), vocab, "float32")
        self.kernels.edit(logits, table, penalties, tokens, biases, edited)
        return edited

    def _rank(self, logits: np.ndarray, wanted: list[tuple[int, int]], top: int) -> list[TokenLogprobs | None]:
        empty, (_, vocab) = self.kernels.empty, logits.shape
        table, sums = empty((len(wanted), 2), "int64"), empty((len(wanted), 2), "int64")
        table[:] = wanted
        if not (table[:, 1].min() >= 0 and table[:, 1].max() < vocab):
            raise ValueError(f"log probabilities of a token are wanted that is not in 0 to {vocab - 1}")
        values = empty((len(wanted), 2), "float32")
        shape = len(wanted), max(1, min(top, vocab))  # a kernel's array is never empty
        top_ids, top_values = empty(shape, "int32"), empty(shape, "float32")
        self.kernels.rank(logits, table, sums, values, top_ids, top_values)
        made: list[TokenLogprobs | None] = []
        for i, (_, token) in enumerate(wanted):
            total = int(sums[i, TOTAL])
            if not total:
                made.append(None)
                continue
            log_sum = math.log(total * 2.0**-WEIGHT_BITS) + float(values[i, 0])
            order = np.lexsort((top_ids[i], -top_values[i]))
            logprob = float(values[i, 1]) - log_sum
            tops = (top_values[i, order].astype(np.float64) - log_sum).astype(np.float32)
            made.append(TokenLogprobs(token, logprob, int(sums[i, RANK]), top_ids[i, order], tops))
        return made

    def _report(
        self, logits: np.ndarray, rows: Sequence[int], tokens: np.ndarray, draws: Sequence[Draw]
    ) -> tuple[TokenLogprobs | None, ...]:
        found: list[TokenLogprobs | None] = [None] * len(draws)
        asking = [(i, draw.top) for i, draw in enumerate(draws) if draw.top is not None and tokens[i] != NO_TOKEN]
        if asking:
            made = self._rank(logits, [(rows[i], int(tokens[i])) for i, _ in asking], max(top for _, top in asking))
            for (i, top), one in zip(asking, made, strict=True):
                found[i] = one and cut_top(one, top)
        return tuple(found)


def _checked_rows(logits: np.ndarray, count: int, rows: Sequence[int] | None, what: str) -> Sequence[int]:
    """Which row of the logits belongs to each draw or token; ValueError where that cannot be."""
    if logits.ndim != 2 or logits.dtype != np.float32:
        raise ValueError(f"logits must be float32[rows, vocab], not {logits.dtype}{list(logits.shape)}")
    if rows is None:
        rows = range(len(logits))
    if len(rows) != count:
        raise ValueError(f"logits {list(logits.shape)} need one {what} per row: {len(rows)} rows, {count} given")
    if count and not (min(rows) >= 0 and max(rows) < len(logits)):
        raise ValueError(f"rows {min(rows)} to {max(rows)} of logits {list(logits.shape)} do not exist")
    return rows


def cut_top(made: TokenLogprobs, top: int) -> TokenLogprobs:
    """The same with the first `top` of the most likely tokens only."""
    return dataclasses.replace(made, top_ids=made.top_ids[:top], top_logprobs=made.top_logprobs[:top])


@functools.lru_cache(maxsize=4096)
def draw_settings(params: SamplingParams) -> tuple[tuple[int, int, int, int], tuple[float, float]]:
    """What the kernels are told about parameters: (GREEDY, TOP_K, TOP_P, TYPICAL_P) and (SCALE, FLOOR)."""
    # Temperatures beyond float32 act as the nearest that it has; so no difference of -inf becomes NaN.
    scale = min(max(1 / max(params.temperature, 1 / _HUGE), _TINY), _HUGE)
    floor = math.log(params.min_p) if params.min_p else -math.inf
    sums = (min(UNIT, int(p * UNIT)) for p in (params.top_p, params.typical_p))
    return (int(params.greedy), max(0, params.top_k), *sums), (scale, floor)  # type: ignore[return-value]
