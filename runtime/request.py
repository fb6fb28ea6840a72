"""A request on its way through the engine: its tokens, its pages, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .detokenize import Detokenizer
from .errors import RequestError
from .plans import PAGE
from .sampling import SamplingParams

Receiver = Callable[[int, np.ndarray], None]
"""Takes a position and the logits float32[r, vocab] of it and the r - 1 next ones; they may be overwritten after the call."""


def pages_for(tokens: int, page_tokens: int = PAGE) -> int:
    """Pages that hold the keys and values of `tokens` tokens."""
    return -(-tokens // page_tokens)


def token_array(token_ids: Sequence[int] | np.ndarray, vocab_size: int) -> np.ndarray:
    """Token ids as int32[n]. RequestError for an empty list, what is no integer, and ids outside the vocabulary."""
    if isinstance(token_ids, (str, bytes)):
        raise RequestError(f"token ids must be a list of integers, found the text {token_ids[:40]!r}")
    try:
        ids = np.asarray(token_ids)
    except ValueError:
        ids = np.empty((1, 1))  # ragged: not a list of numbers
    if ids.ndim == 1 and not len(ids):
        raise RequestError("the prompt is empty", "a model needs at least one token to go on from")
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise RequestError("token ids must be one flat list of integers")
    wrong = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    if len(wrong):
        at = int(wrong[0])
        raise RequestError(
            f"token id {ids[at]} at position {at} is out of range; the model knows 0 to {vocab_size - 1}",
            fix="use the tokenizer that belongs to the model",
        )
    return ids.astype(np.int32)


class Request:
    """One sequence. Generates with `params`, or (with `receive` instead) hands out logits of prompt tokens.

    The tokens stand in one buffer, prompt first. The keys and values of the first `computed` of them are in the cache,
    in `pages`; the others are pending. Prefill, decode and recomputation after a preemption are all "serve pending
    tokens".
    """

    def __init__(
        self,
        request_id: str,
        prompt_ids: np.ndarray,
        *,
        max_length: int,
        chunk: int,
        params: SamplingParams | None = None,
        seed: int = 0,
        prompt: str | None = None,
        receive: Receiver | None = None,
        first: int = 0,
        detokenizer: Detokenizer | None = None,
        end_ids: frozenset[int] = frozenset(),
        page_tokens: int = PAGE,
    ) -> None:
        self.request_id = request_id
        self.prompt = prompt
        self.params = params
        self.seed = seed
        self.chunk = chunk
        self.receive = receive
        self.scored = first  # the next position whose logits are wanted; none comes twice, preempted or not
        self.detokenizer = detokenizer
        self.end_ids = end_ids
        self.max_length = max_length
        self.num_prompt = len(prompt_ids)
        self.num_tokens = self.num_prompt
        self.computed = 0
        self.preemptions = 0
        self.arrival = 0.0
        self.first_scheduled: float | None = None
        self.first_token: float | None = None
        self._page_tokens = page_tokens
        # The last generated token is never fed back, so it needs no place in the cache.
        self.cached_length = max_length if params is None else max_length - 1
        self._tokens = np.empty(max_length, np.int32)
        self._tokens[: self.num_prompt] = prompt_ids
        self._pages = np.empty(pages_for(self.cached_length, page_tokens), np.int32)
        self.num_pages = 0

    def __repr__(self) -> str:
        return f"Request({self.request_id!r}, {self.computed}/{self.num_tokens} tokens, {self.num_pages} pages)"

    @property
    def tokens(self) -> np.ndarray:
        """Prompt and generated tokens, int32; a view."""
        return self._tokens[: self.num_tokens]

    @property
    def prompt_ids(self) -> np.ndarray:
        """The prompt's tokens, int32; a view."""
        return self._tokens[: self.num_prompt]

    @property
    def generated(self) -> np.ndarray:
        """The generated tokens, int32; a view."""
        return self._tokens[self.num_prompt : self.num_tokens]

    @property
    def pages(self) -> np.ndarray:
        """The physical pages in order, int32; a view."""
        return self._pages[: self.num_pages]

    @property
    def pending(self) -> int:
        """Tokens that are not in the cache yet; 1 while decoding."""
        return self.num_tokens - self.computed

    def missing_pages(self, tokens: int) -> int:
        """Pages to add so that `tokens` tokens have a place."""
        return max(0, pages_for(tokens, self._page_tokens) - self.num_pages)

    @property
    def pages_to_admit(self) -> int:
        """Pages to add before it may start: all its tokens and one more, so that it does not run dry at once."""
        return self.missing_pages(min(self.num_tokens + 1, self.cached_length))

    def add_pages(self, pages: np.ndarray) -> None:
        """Take over `pages` as the next ones."""
        self._pages[self.num_pages : self.num_pages + len(pages)] = pages
        self.num_pages += len(pages)

    def drop_pages(self) -> np.ndarray:
        """Give all pages back (the result); every token is pending again."""
        pages = self.pages.copy()
        self.num_pages = self.computed = 0
        return pages

    def append(self, token: int) -> None:
        """Add a generated token."""
        self._tokens[self.num_tokens] = token
        self.num_tokens += 1
