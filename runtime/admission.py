"""The checks of a request: what can never be served is refused at once, with the numbers."""

from __future__ import annotations

import itertools
import math
import numbers
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from .detokenize import Detokenizer
from .errors import ContextLengthError, RequestError
from .request import Receiver, Request, pages_for, token_array
from .runner import RunnerInfo
from .sampling import SamplingParams
from .structured.grammar import Grammars, Matcher
from .structured.llguidance_backend import LLGuidance
from .structured.params import Structured
from .tokenizer import Tokenizer


class Admission:
    """Builds requests for one engine. Touches none of its state, so that any thread may prepare requests."""

    def __init__(
        self,
        info: RunnerInfo,
        tokenizer: Tokenizer | None,
        eos_ids: frozenset[int],
        chunk: int,
        context_length: int | None,
    ) -> None:
        self.info, self.tokenizer, self.eos_ids = info, tokenizer, eos_ids
        self.chunk = _checked_chunk(chunk)
        self.context_length = info.context_length if context_length is None else context_length
        if not 1 <= self.context_length <= info.context_length:
            raise RequestError(f"context_length is {context_length}; the model takes 1 to {info.context_length}")
        self._numbers = itertools.count()
        self.grammars = None if tokenizer is None or info.encoder else Grammars(LLGuidance(tokenizer, info.vocab_size))

    @property
    def longest_text(self) -> int:
        """Tokens of a text whose logits or hidden states are wanted, at most."""
        return min(self.context_length, self.info.max_tokens) if self.info.encoder else self.context_length

    def generating(
        self,
        prompt_ids: Sequence[int] | np.ndarray,
        params: SamplingParams | None,
        *,
        prompt: str | None = None,
        request_id: str | None = None,
        chunk: int | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Request:
        """A request for a text; RequestError says why it can never be served."""
        self._check_kind("generates no text")
        params = SamplingParams() if params is None else params
        vocab_size = self.info.vocab_size
        ids = token_array(prompt_ids, vocab_size)
        max_length = self._max_length(len(ids), params.max_tokens)
        if params.stop and self.tokenizer is None:
            raise RequestError("stop texts need a tokenizer, and this engine has none", fix="use stop_token_ids")
        for name in ("stop_token_ids", "bad_token_ids", "allowed_token_ids"):
            for token in getattr(params, name) or ():
                self._check_token(name, token)
        for token in dict(params.logit_bias or ()):
            self._check_token("logit_bias", token)
        end_ids = frozenset(params.stop_token_ids or ()) | (frozenset() if params.ignore_eos else self.eos_ids)
        request = Request(
            self._new_id(request_id),
            ids,
            max_length=max_length,
            chunk=self.chunk if chunk is None else _checked_chunk(chunk),
            params=params,
            first=None if params.prompt_logprobs is None else 0,
            seed=secrets.randbits(64) if params.seed is None else params.seed,
            prompt=prompt,
            detokenizer=self._detokenizer(params),
            end_ids=end_ids,
            bad_words=self._bad_words(params),
            matcher=self._matcher(params, end_ids),
            page_tokens=self.info.page_tokens,
            timeout=_checked_timeout(timeout),
            **_checked_options(**options),
        )
        return request

    def receiving(
        self,
        token_ids: Sequence[int] | np.ndarray,
        receive: Receiver,
        *,
        first: int = 0,
        chunk: int | None = None,
        pooling: bool = False,
        request_id: str | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Request:
        """A request for the logits, or with `pooling` the hidden states, of all positions from `first` on."""
        if not pooling:
            self._check_kind("has no logits")
        ids = token_array(token_ids, self.info.vocab_size)
        if len(ids) > self.context_length:
            raise self._too_long(len(ids), "all tokens must be in the context at once")
        if self.info.encoder and len(ids) > self.info.max_tokens:
            raise ContextLengthError(
                f"the text has {len(ids)} tokens; a step takes {self.info.max_tokens} (max_tokens)",
                "an encoder's tokens all see each other, so that a text is served in one step",
                f"shorten the text, or compile the model with max_tokens={self.context_length}",
            )
        if not 0 <= first < len(ids):
            what = "hidden states are" if pooling else "logits are"
            raise RequestError(f"{what} wanted from position {first} on; the positions are 0 to {len(ids) - 1}")
        self._check_pages(len(ids), f"{len(ids)} tokens")
        return Request(
            self._new_id(request_id),
            ids,
            max_length=len(ids),
            chunk=self.chunk if chunk is None else _checked_chunk(chunk),
            receive=receive,
            first=first,
            pooling=pooling,
            whole=self.info.encoder,
            page_tokens=self.info.page_tokens,
            timeout=_checked_timeout(timeout),
            **_checked_options(**options),
        )

    def _check_kind(self, what: str) -> None:
        """RequestError where only a decoder will do."""
        if self.info.encoder:
            raise RequestError(f"this model is an encoder: it {what}", fix="ask for embeddings: embed()")

    def _detokenizer(self, params: SamplingParams) -> Detokenizer | None:
        if self.tokenizer is None:
            return None
        return Detokenizer(self.tokenizer, tuple(params.stop or ()), params.skip_special_tokens)

    def _new_id(self, request_id: str | None) -> str:
        return f"request-{next(self._numbers)}" if request_id is None else request_id

    def _check_token(self, name: str, token: int) -> None:
        vocab_size = self.info.vocab_size
        if token >= vocab_size:
            raise RequestError(f"SamplingParams.{name} has {token}; the model knows 0 to {vocab_size - 1}")

    def _bad_words(self, params: SamplingParams) -> tuple[tuple[int, ...], ...]:
        """The token sequences of bad words, each as it begins a text and as it follows a space."""
        if not params.bad_words:
            return ()
        if self.tokenizer is None:
            raise RequestError("bad_words need a tokenizer, and this engine has none", fix="use bad_token_ids")
        texts = [text for word in params.bad_words for text in (word, " " + word.lstrip())]
        found = (tuple(self.tokenizer.encode(text, add_special_tokens=False)) for text in texts)
        return tuple(dict.fromkeys(tokens for tokens in found if tokens))

    def _matcher(self, params: SamplingParams, end_ids: frozenset[int]) -> Matcher | None:
        """The start of the grammar that a text has to match; compiling it may take a second."""
        if params.structured is None:
            return None
        if self.grammars is None:
            raise RequestError("structured output needs a tokenizer, and this engine has none")
        return self.grammars.get(Structured.of(params.structured)).matcher(end_ids)

    def _max_length(self, prompt: int, max_tokens: int | None) -> int:
        """Tokens of the finished sequence at most: what the request asks for, cut at the model's context."""
        info = self.info
        if prompt >= self.context_length:
            raise self._too_long(prompt, "the context must have room for one more token at least")
        if max_tokens is None:
            self._check_pages(prompt, f"a prompt of {prompt} tokens")
            return min(self.context_length, info.num_pages * info.page_tokens + 1)
        length = min(prompt + max_tokens, self.context_length)
        self._check_pages(length - 1, f"a prompt of {prompt} tokens with max_tokens={max_tokens}")
        return length

    def _too_long(self, tokens: int, why: str) -> RequestError:
        return ContextLengthError(
            f"the prompt has {tokens} tokens; the context holds {self.context_length}", why, "shorten the prompt"
        )

    def _check_pages(self, tokens: int, what: str) -> None:
        info = self.info
        needed = pages_for(tokens, info.page_tokens)
        if needed > info.num_pages:
            raise RequestError(
                f"{what} needs {needed} pages of the KV cache; the pool has {info.num_pages}",
                f"a page holds {info.page_tokens} tokens, and a request must fit by itself",
                "shorten the prompt, lower max_tokens, or load the model with more kv_memory",
            )


def _checked_chunk(chunk: int) -> int:
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise RequestError(f"chunk is {chunk!r}; allowed is an integer, 1 or more (tokens of one prompt in a step)")
    return chunk


def _checked_timeout(timeout: float | None) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, numbers.Real) or not 0 < timeout < math.inf:
        raise RequestError(f"timeout is {timeout!r}; allowed is None, or seconds over 0")
    return float(timeout)


def _checked_options(priority: int = 0, tenant: str = "", salt: str = "") -> dict[str, Any]:
    """What a request may say besides its prompt and parameters."""
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise RequestError(f"priority is {priority!r}; allowed is an integer, the smaller the more urgent")
    for name, text in (("tenant", tenant), ("salt", salt)):
        if not isinstance(text, str):
            raise RequestError(f"{name} is {text!r}; allowed is a text")
    return {"priority": priority, "tenant": tenant, "salt": salt}
