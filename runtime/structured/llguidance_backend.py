"""Grammars by llguidance: an Earley parser over derivatives of regular expressions, with masks from a trie of all tokens.

Its masks are computed without Python's lock. Its tokenizer is the model's own, so that forced tokens are canonical: those that
encoding the text gives, up to where more text could change them. Only this module and `rules.py` import llguidance, when used.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from ..errors import RequestError
from ..sampler.reference import WORD
from ..tokenizer import Tokenizer
from .grammar import GrammarError
from .params import Structured
from .rules import choices_as_regex, gbnf_as_lark, is_gbnf
from .schema import leaves, prepared
from .vocabulary import tokenizer_json

WHITESPACE = r"[\x20\x0A\x0D\x09]{1,32}"
"""Between the parts of JSON, where the model may lay it out: bounded, since weak models never stop to write spaces."""


class LLGuidance:
    """Compiles grammars for one tokenizer, and a model of `vocab` tokens. Any thread may call it."""

    def __init__(self, tokenizer: Tokenizer, vocab: int) -> None:
        self.vocab = vocab
        self._source = tokenizer
        self._lock = threading.Lock()

    def __call__(self, spec: Structured) -> LLGuidanceGrammar:
        """Compile; RequestError where the grammar makes no sense, or is more than llguidance takes."""
        library = _library()
        tokenizer = self._tokenizer
        try:
            with _panics_as_errors():
                inner = library.LLMatcher(tokenizer, _source(library.LLMatcher, spec), log_level=0, limits=_limits())
        except RequestError:
            raise
        except ValueError as error:
            raise _refused(spec, str(error)) from error
        if inner.is_error():
            raise _refused(spec, inner.get_error())
        try:
            LLGuidanceMatcher(inner.deep_copy(), self, ()).fill(np.empty(self.mask_words, np.int32))
        except GrammarError as error:
            raise _refused(spec, error.why or error.what) from error
        return LLGuidanceGrammar(inner, self)

    @property
    def _tokenizer(self) -> Any:
        with self._lock:
            return self._prepared[0]

    @property
    def end(self) -> int:
        """The token that llguidance takes for the end of a text."""
        return self._prepared[1]

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that are no text: a grammar that allows one names it."""
        return self._source.special_ids

    @functools.cached_property
    def mask_words(self) -> int:
        """Elements of llguidance's own masks."""
        return -(-int(self._prepared[0].vocab_size) // WORD)

    @functools.cached_property
    def _prepared(self) -> tuple[Any, int]:
        """llguidance's tokenizer, made when it is first needed (it takes a second), and its end token."""
        described, end = tokenizer_json(self._source)
        try:
            with _panics_as_errors():
                return _library().LLTokenizer(described, n_vocab=max(self.vocab, end) + 1, eos_token=end), end
        except ValueError as error:
            raise RequestError(
                "the model's tokenizer does not serve structured output",
                f"llguidance refuses it: {error}",
                "llguidance takes byte-level and byte-fallback tokenizers",
            ) from error


class LLGuidanceGrammar:
    """A compiled grammar: a matcher that stays at the start, to be copied."""

    def __init__(self, start: Any, backend: LLGuidance) -> None:
        self._start, self._backend = start, backend
        self._lock = threading.Lock()

    def matcher(self, end_ids: Collection[int]) -> LLGuidanceMatcher:
        """A matcher at the start."""
        with self._lock:
            return LLGuidanceMatcher(self._start.deep_copy(), self._backend, tuple(end_ids))


class LLGuidanceMatcher:
    """Where one text stands."""

    def __init__(self, inner: Any, backend: LLGuidance, end_ids: tuple[int, ...]) -> None:
        self._inner, self._backend, self._end_ids = inner, backend, end_ids

    @property
    def finished(self) -> bool:
        """Whether the text is complete, and nothing can follow."""
        return bool(self._inner.is_stopped())

    def fill(self, row: np.ndarray) -> None:
        """Write which tokens may come next."""
        end = self._backend.end
        found = np.empty(self._backend.mask_words, np.int32)
        self._inner.unsafe_compute_mask_ptr(found.ctypes.data, found.nbytes)
        self._check()
        row[len(found) :] = 0
        row[: len(found)] = found[: len(row)]
        bits, may_end = row.view(np.uint32), bool(found.view(np.uint32)[end // WORD] >> np.uint32(end % WORD) & 1)
        for token in (end, *self._end_ids):
            if token // WORD < len(row):
                bit = np.uint32(1 << token % WORD)
                if may_end and token != end:
                    bits[token // WORD] |= bit
                elif token not in self._backend.special_ids:  # one of those is there because the grammar names it
                    bits[token // WORD] &= ~bit
        if not row.any():
            raise GrammarError(
                "the grammar allows no token of the model here"
                + (", only the end of the text, and no token may end this one" if may_end else ""),
                fix="give a grammar that the model's tokens can spell" + (", or end tokens" if may_end else ""),
            )

    def accept(self, token: int) -> None:
        """The text goes on with `token`."""
        if not self._inner.consume_token(token):
            self._check()
            raise GrammarError(f"the grammar does not allow token {token} here")

    def forced(self) -> list[int]:
        """The next tokens, where the grammar leaves no choice."""
        found = self._inner.compute_ff_tokens()
        self._check()
        for i, token in enumerate(found):
            if token >= self._backend.vocab or token == self._backend.end:
                return list(found[:i])
        return list(found)

    def copy(self) -> LLGuidanceMatcher:
        """Another matcher at the same place."""
        return LLGuidanceMatcher(self._inner.deep_copy(), self._backend, self._end_ids)

    def _check(self) -> None:
        if self._inner.is_error():
            raise GrammarError(
                "the grammar cannot go on", _brief(self._inner.get_error()), "make the grammar simpler, or smaller"
            )


@functools.cache
def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise RequestError(
            "structured output needs the package llguidance, which is not installed",
            fix="pip install 'heddle[grammar]'",
        ) from error
    return llguidance


@contextlib.contextmanager
def _panics_as_errors() -> Iterator[None]:
    """Rust's panics, which are no Exception, as ValueError."""
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise ValueError(f"llguidance failed: {error}") from None


def _limits() -> Any:
    """llguidance's own limits, in numbers of items and not in seconds; its messages tell nothing of other texts."""
    return _library().LLParserLimits(verbose_errors=False)


def _source(matcher: Any, spec: Structured) -> str:
    """The grammar as llguidance takes it."""
    if spec.kind in ("json", "json_object"):
        schema = '{"type":"object"}' if spec.json_object else prepared(spec.text)
        layout: dict[str, Any] = {"whitespace_pattern": WHITESPACE}
        if spec.disable_any_whitespace:
            layout = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        options = {"lenient": False, "coerce_one_of": False, **layout}
        return str(matcher.grammar_from_json_schema(schema, overrides=options))
    if spec.regex is not None:
        return str(matcher.grammar_from_regex(spec.regex))
    if spec.choice:
        return str(matcher.grammar_from_regex(choices_as_regex(tuple(spec.choice))))
    return str(matcher.grammar_from_lark(gbnf_as_lark(spec.text) if is_gbnf(spec.text) else spec.text))


def _refused(spec: Structured, why: str) -> RequestError:
    place, matcher = spec.kind, _library().LLMatcher
    for found, leaf in leaves(spec.text) if spec.kind == "json" else ():
        if alone := matcher.validate_grammar(matcher.grammar_from_json_schema(leaf)):
            place, why = found, alone
            break
    return RequestError(
        f"Structured.{place} cannot be used: {_brief(why)}",
        fix="docs/structured_output.md says what is supported",
    )


def _brief(message: str) -> str:
    """The first lines of a message of llguidance's, which may go on with its state."""
    lines = [line.strip() for line in message.splitlines()]
    return "; ".join(line[:200] for line in lines if line.strip("^ "))[:500]
