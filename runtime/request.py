"""A request on its way through the engine: its tokens, its pages, and how far it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .errors import RequestError
from .group import Group
from .outputs import LogprobTable
from .plans import PAGE
from .sampler import sample_seed
from .sampling import SamplingParams

if TYPE_CHECKING:
    from .detokenize import Texts
    from .kv import Swapped
    from .structured.grammar import Matcher

Receiver = Callable[[int, np.ndarray], None]
"""Takes a position and what is wanted of it and the r - 1 next ones, logits float32[r, vocab] or hidden states float32[r, width].
They may be overwritten after the call."""


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
    """One sequence. Generates with `params`, or (with `receive` instead) hands out logits or hidden states of its tokens.

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
        first: int | None = None,
        pooling: bool = False,
        detokenizer: Texts | None = None,
        end_ids: frozenset[int] = frozenset(),
        page_tokens: int = PAGE,
        priority: int = 0,
        tenant: str = "",
        timeout: float | None = None,
        salt: str = "",
        bad_words: tuple[tuple[int, ...], ...] = (),
        matcher: Matcher | None = None,
        whole: bool = False,
    ) -> None:
        """`first` is the first position whose logits (or, with `pooling`, hidden states) are wanted; None: the last one.

        `whole`: all tokens see each other, so that they must be served in one step (encoders).
        """
        self.request_id = request_id
        self.prompt = prompt
        self.params = params
        self.seed = seed
        self.chunk = chunk
        self.receive = receive
        self.pooling = pooling
        self.whole = whole
        self.num_prompt = len(prompt_ids)
        # The next prompt position whose results are wanted; none comes twice, preempted or not.
        self.scored = self.num_prompt - 1 if first is None else first
        self.detokenizer = detokenizer
        self.end_ids = end_ids
        self.bad_words = bad_words
        self.matcher = matcher  # where the text stands in its grammar; it sees no token before it is sure
        self.max_length = max_length
        self.priority = priority
        self.tenant = tenant
        self.timeout = timeout
        self.deadline: float | None = None  # of the engine's clock, once it has come
        self.salt = salt
        self.index = 0  # which sample of its group
        self.group = Group(self)
        self.number = 0  # in order of arrival
        self.added = False
        self.num_tokens = self.num_prompt
        self.computed = 0
        self.charged = 0  # tokens that its tenant has paid for: those computed again are free
        self.cached_tokens = 0
        self.arrival = 0.0
        self.first_scheduled: float | None = None
        self.first_token: float | None = None
        self.prompt_logprobs: list[LogprobTable | None] = [None]
        self.logprobs: list[LogprobTable] = []
        self.cumulative_logprob = 0.0
        self.page_tokens = page_tokens
        # The last generated token is never fed back, so it needs no place in the cache.
        self.cached_length = max_length if params is None else max_length - 1
        self._tokens = np.empty(max_length, np.int32)
        self._tokens[: self.num_prompt] = prompt_ids
        self._pages = np.empty(pages_for(self.cached_length, page_tokens), np.int32)
        self.num_pages = 0
        self.first_page = 0  # pages before it were given back: no row looks back that far (sliding windows)
        self.published = 0  # full pages that the prefix cache has seen
        self.swapped: Swapped | None = None  # the pages' contents, while they are in host memory

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
        """The physical pages in order, int32; a view. Those before `first_page` are not its own any more."""
        return self._pages[: self.num_pages]

    @property
    def held(self) -> np.ndarray:
        """The physical pages that it holds, int32; a view."""
        return self._pages[self.first_page : self.num_pages]

    @property
    def pending(self) -> int:
        """Tokens that are not in the cache yet; 1 while decoding."""
        return self.num_tokens - self.computed

    @property
    def jumps(self) -> bool:
        """Whether tokens that the grammar forces are taken over without the model, which then has no say in their logits."""
        params = self.params
        return params is not None and params.logprobs is None and params.samples == params.n

    @property
    def first_wanted(self) -> int:
        """The first position whose results are still wanted: of logits, or of hidden states where it pools."""
        if self.receive is not None or self.scored < self.num_prompt - 1:
            return self.scored
        return self.num_tokens - 1

    def missing_pages(self, tokens: int) -> int:
        """Pages to add so that `tokens` tokens have a place."""
        return max(0, pages_for(tokens, self.page_tokens) - self.num_pages)

    @property
    def pages_to_start(self) -> int:
        """Pages that it must have to start: for all its tokens and one more, so that it does not run dry at once."""
        return pages_for(min(self.num_tokens + 1, self.cached_length), self.page_tokens)

    def add_pages(self, pages: np.ndarray) -> None:
        """Take over `pages` as the next ones."""
        self._pages[self.num_pages : self.num_pages + len(pages)] = pages
        self.num_pages += len(pages)

    def cut_pages(self, num_pages: int) -> None:
        """Forget the pages behind the first `num_pages`; what was computed stays so."""
        self.num_pages = num_pages

    def drop_pages(self) -> None:
        """Forget all pages; every token is pending again."""
        self.num_pages = self.first_page = self.computed = self.published = 0

    def sample(self, index: int) -> Request:
        """Sample `index` of the same prompt, before its first token; it has no pages and nothing computed."""
        other = copy.copy(self)
        other.index, other.seed = index, sample_seed(self.seed, index)
        other._tokens, other._pages = self._tokens.copy(), np.empty_like(self._pages)
        other.num_pages = other.first_page = other.computed = other.published = 0
        other.detokenizer = self.detokenizer and self.detokenizer.fresh()
        other.matcher = self.matcher and self.matcher.copy()
        other.logprobs, other.cumulative_logprob = [], 0.0
        return other

    def append(self, token: int) -> None:
        """Add a generated token."""
        self._tokens[self.num_tokens] = token
        self.num_tokens += 1
