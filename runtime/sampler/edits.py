"""Which tokens of a row are allowed, banned, biased or penalized: the lists that the kernel `edit` works through."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .draw import Draw
from .reference import ALLOWED, EDIT_ROW, RESTRICTED

_NOTHING = np.empty(0, np.int32)


def needs_edits(draw: Draw) -> bool:
    """Whether anything changes this row's logits before a token is drawn."""
    params = draw.params
    return bool(
        params.allowed_token_ids is not None
        or params.bad_token_ids
        or params.logit_bias
        or params.repetition_penalty != 1
        or (params.frequency_penalty or params.presence_penalty)
        or draw.bad_words
        or (params.min_tokens and _held_open(draw))
    )


def _held_open(draw: Draw) -> bool:
    """Whether the sequence must not end yet."""
    return bool(draw.end_ids) and len(draw.tokens) - draw.num_prompt < draw.params.min_tokens


def _banned(draw: Draw) -> list[int]:
    """Tokens that cannot be chosen now."""
    banned = list(draw.params.bad_token_ids or ())
    if _held_open(draw):
        banned += draw.end_ids
    for word in draw.bad_words:
        before = len(word) - 1
        if word and before <= len(draw.tokens) and draw.tokens[len(draw.tokens) - before :].tolist() == list(word[:-1]):
            banned.append(word[-1])
    return banned


def edit_lists(
    rows: Sequence[int], draws: Sequence[Draw], table: np.ndarray, penalties: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fill `table` int64[e, EDIT_FIELDS] and `penalties` float32[e, PENALTIES]; return the lists' tokens int32[t] and their
    biases float32[t]."""
    lists: list[np.ndarray] = []
    biases: list[np.ndarray] = []
    begin = 0
    for i, (row, draw) in enumerate(zip(rows, draws, strict=True)):
        params = draw.params
        penalties[i] = params.repetition_penalty, params.frequency_penalty, params.presence_penalty
        repeated = params.repetition_penalty != 1
        counted = repeated or params.frequency_penalty or params.presence_penalty
        pairs = params.biases
        mine = [
            np.array(params.allowed_token_ids or (), np.int32),
            np.array(_banned(draw), np.int32),
            np.array([token for token, _ in pairs], np.int32),
            draw.tokens[: draw.num_prompt] if repeated else _NOTHING,
            draw.tokens[draw.num_prompt :] if counted else _NOTHING,
        ]
        ends = np.cumsum([begin, *map(len, mine)])
        table[i, EDIT_ROW], table[i, RESTRICTED] = row, params.allowed_token_ids is not None
        table[i, ALLOWED:] = ends
        bias = np.zeros(ends[-1] - begin, np.float32)
        bias[ends[2] - begin : ends[3] - begin] = [value for _, value in pairs]
        lists += mine
        biases.append(bias)
        begin = int(ends[-1])
    return np.concatenate(lists), np.concatenate(biases)
