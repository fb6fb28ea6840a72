"""Measuring a model on a text: its perplexity, and its distance from another model. docs/evaluation.md defines the numbers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .llm import LLM
from .opening import Quant, find_artifact
from .runtime.errors import HeddleError, RequestError
from .windows import DEFAULT_WINDOW, Text, Windows, tokenize, windows_of

Progress = Callable[[str, int, int], None]

PIECE_BYTES = 64 << 20
"""Bytes of logits that are held at once, for each model."""
PERCENTILES = (50, 90, 95, 99)
_BLOCK = 1 << 18  # logits that are looked at together, in float64: they stay near the caches


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """What a model makes of a text.

    losses: float64[scored], -log p(token | the tokens before it in its window), in nats, in the order of the text.
    """

    text: Text
    windows: Windows
    losses: np.ndarray

    @property
    def cross_entropy(self) -> float:
        """Nats a token."""
        return float(self.losses.mean())

    @property
    def perplexity(self) -> float:
        """exp(cross entropy)."""
        with np.errstate(over="ignore"):
            return float(np.exp(self.losses.mean()))

    @property
    def bits_per_byte(self) -> float:
        """Bits a byte: does not depend on how a tokenizer cuts a text, so models with different ones compare."""
        return self.cross_entropy / float(np.log(2)) * len(self.text.ids) / self.text.bytes

    def summary(self) -> dict[str, Any]:
        """The numbers by name, ready for JSON."""
        return {
            "perplexity": self.perplexity,
            "cross_entropy": self.cross_entropy,
            "cross_entropy_error": standard_error(self.losses),
            "bits_per_byte": self.bits_per_byte,
            "scored": len(self.losses),
            "tokens": len(self.text.ids),
            "bytes": self.text.bytes,
            "prefix": list(self.text.prefix),
            "windows": len(self.windows.windows),
            "window": self.windows.size,
            "stride": self.windows.stride,
        }


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far model b is from model a on the scored tokens of a text.

    divergence: float64[scored], KL(a || b) of the distributions of each token, in nats.
    agree: bool[scored], whether both find the same token the likeliest.
    """

    a: Perplexity
    b: Perplexity
    divergence: np.ndarray
    agree: np.ndarray

    def summary(self) -> dict[str, Any]:
        """The numbers by name, ready for JSON."""
        loss = self.b.losses - self.a.losses
        percentiles = np.percentile(self.divergence, PERCENTILES)
        return {
            "kl_mean": float(self.divergence.mean()),
            "kl_mean_error": standard_error(self.divergence),
            "kl_percentiles": {str(p): float(v) for p, v in zip(PERCENTILES, percentiles, strict=True)},
            "kl_max": float(self.divergence.max()),
            "top1_agreement": float(self.agree.mean()),
            "cross_entropy_difference": float(loss.mean()),
            "cross_entropy_difference_error": standard_error(loss),
            "perplexity_ratio": float(np.exp(loss.mean())),
            "a": self.a.summary(),
            "b": self.b.summary(),
        }


def load(
    path: str | Path,
    *,
    window: int | None = None,
    quant: Quant = None,
    kv_dtype: str | None = None,
    threads: int | None = None,
    target: str = "native",
    progress: Progress | None = None,
) -> LLM:
    """An LLM of an artifact or Hugging Face directory whose KV pool holds windows and no whole context."""
    artifact = find_artifact(Path(path), {"quant": quant, "kv_dtype": kv_dtype}, progress=progress, target=target)
    most = artifact.manifest.model.context_length
    wanted = DEFAULT_WINDOW if window is None else max(window, 1)
    return LLM(artifact.path, threads=threads, target=artifact.target.name, context_length=min(wanted, most))


def perplexity(
    llm: LLM,
    text: str,
    *,
    window: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    prefix: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Perplexity:
    """Score `text` in windows of `window` tokens, each `stride` further on (None: half a window).

    `max_tokens` cuts the text; `prefix` are tokens in front of every window (None: the tokenizer's own, such as a BOS).
    RequestError for a text that is too short, and for windows that the model cannot take.
    """
    tokens = tokenize(llm, text, prefix, max_tokens)
    plan = windows_of(tokens, llm.engine.context_length, window, stride)
    losses = [losses_of(log_p, targets) for targets, (log_p,), _ in _scored([llm], tokens, plan, progress)]
    return Perplexity(tokens, plan, np.concatenate(losses))


def compare(
    a: LLM,
    b: LLM,
    text: str,
    *,
    window: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    prefix: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Score `text` with both models, a being the reference; the options are those of `perplexity`.

    RequestError where the two do not see the same tokens.
    """
    check_vocabularies(a, b)
    tokens, others = (tokenize(llm, text, prefix, max_tokens) for llm in (a, b))
    check_tokens(tokens, others)
    plan = windows_of(tokens, min(a.engine.context_length, b.engine.context_length), window, stride)
    losses: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    divergence, agree = [], []
    for targets, both, work in _scored([a, b], tokens, plan, progress):
        for found, log_p in zip(losses, both, strict=True):
            found.append(losses_of(log_p, targets))
        divergence.append(kl_divergence(both[0], both[1], work))
        agree.append(both[0].argmax(1) == both[1].argmax(1))
    results = [Perplexity(tokens, plan, np.concatenate(found)) for found in losses]
    return Comparison(results[0], results[1], np.concatenate(divergence), np.concatenate(agree))


# What is computed of logits.


def log_probabilities(logits: np.ndarray, out: np.ndarray | None = None, work: np.ndarray | None = None) -> np.ndarray:
    """log softmax of each row, float64 of the same shape. HeddleError where a logit is not finite.

    `out` and `work`, float64 of that shape, save fresh memory: its page faults would take most of the time.
    """
    if not np.isfinite(logits).all():
        raise HeddleError(
            "logits of the model are not finite",
            "no probability follows from them; weights or activations overflow their type",
            "check the weights of the model",
        )
    shifted = np.subtract(logits, logits.max(1, keepdims=True), out=out, dtype=np.float64)
    shifted -= np.log(np.exp(shifted, out=work).sum(1, keepdims=True))
    return shifted


def losses_of(log_p: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log_p of each row's target: float64[r] of float64[r, vocab] and int[r]."""
    return -log_p[np.arange(len(targets)), targets]


def kl_divergence(log_p: np.ndarray, log_q: np.ndarray, work: np.ndarray | None = None) -> np.ndarray:
    """KL(p || q) = sum of p * (log p - log q) of each row, in nats: float64[r] of two float64[r, vocab]."""
    p = np.exp(log_p, out=work)
    entropy, cross = (np.einsum("rv,rv->r", p, logs) for logs in (log_p, log_q))
    return np.maximum(entropy - cross, 0.0)  # what rounding takes below 0 is 0


def standard_error(values: np.ndarray) -> float:
    """Of the mean of `values`, as if they were independent. Tokens of a text are not quite, so it is a little too small."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


# How logits get here.


def _scored(
    llms: Sequence[LLM], text: Text, plan: Windows, progress: Progress | None
) -> Iterator[tuple[np.ndarray, list[np.ndarray], np.ndarray]]:
    """Scored tokens int32[r], for each model the log probabilities float64[r, vocab] there, and memory of that shape to work in.

    A few rows at a time; the next ones overwrite them.
    """
    total, done = plan.scored, 0
    vocabulary = llms[0].runner.info.vocab_size
    chunk = max(16, min(512, PIECE_BYTES // (4 * vocabulary)))
    block = max(1, _BLOCK // vocabulary)
    buffers = np.empty((len(llms) + 1, block, vocabulary))
    for window in plan.windows:
        tokens = text.tokens(window)
        # The row before a token predicts it; nothing follows the last one.
        first = len(tokens) - (window.end - window.first) - 1
        with contextlib.ExitStack() as stack:
            streams = [
                stack.enter_context(contextlib.closing(llm.stream_logits(tokens[:-1], first, chunk))) for llm in llms
            ]
            for position, logits in _together(streams):
                for row in range(0, len(logits[0]), block):
                    rows = min(block, len(logits[0]) - row)
                    out, work = buffers[:-1, :rows], buffers[-1, :rows]
                    found = [log_probabilities(x[row : row + rows], o, work) for x, o in zip(logits, out, strict=True)]
                    yield tokens[position + row + 1 :][:rows], found, work
                done += len(logits[0])
                if progress is not None:
                    progress("scoring", done, total)


def _together(streams: Sequence[Iterator[tuple[int, np.ndarray]]]) -> Iterator[tuple[int, list[np.ndarray]]]:
    """The logits of the same positions from all streams: steps of different engines need not cut them alike."""
    pieces = [next(stream, None) for stream in streams]
    while held := [piece for piece in pieces if piece is not None]:
        rows = min(len(logits) for _, logits in held)
        yield held[0][0], [logits[:rows] for _, logits in held]
        pieces = [
            (position + rows, logits[rows:]) if len(logits) > rows else next(stream, None)
            for stream, (position, logits) in zip(streams, held, strict=True)
        ]


# Whether two models can be compared.

_SAME = "distributions are compared token by token, so a token must be the same text to both models"
_INSTEAD = "compare artifacts of one model; for others, bits per byte of `heddle eval perplexity` can be compared"


def check_vocabularies(a: LLM, b: LLM) -> None:
    """RequestError unless both models have the same tokens under the same ids."""
    sizes = [llm.runner.info.vocab_size for llm in (a, b)]
    if sizes[0] != sizes[1]:
        raise RequestError(f"the vocabularies have {sizes[0]} and {sizes[1]} tokens", _SAME, _INSTEAD)
    ours, theirs = (llm.needed_tokenizer().vocabulary for llm in (a, b))
    if ours != theirs:
        token = min(set(ours.items()) ^ set(theirs.items()), key=lambda item: item[1])[0]
        raise RequestError(
            f"the vocabularies differ: {token!r} is {ours.get(token, 'no token')} in A, {theirs.get(token, 'no token')} in B",
            _SAME,
            _INSTEAD,
        )


def check_tokens(a: Text, b: Text) -> None:
    """RequestError unless both tokenizers make the same tokens of the text."""
    if a.prefix != b.prefix:
        raise RequestError(
            f"the tokenizer of A begins a text with {list(a.prefix)}, that of B with {list(b.prefix)}",
            "the models would be given different tokens",
            "say what windows begin with: --bos none, or --bos ID",
        )
    if not np.array_equal(a.ids, b.ids):
        same = min(len(a.ids), len(b.ids))
        apart = np.flatnonzero(a.ids[:same] != b.ids[:same])
        raise RequestError(
            f"the tokenizers cut the text differently, first at token {int(apart[0]) if len(apart) else same}",
            _SAME,
            _INSTEAD,
        )
