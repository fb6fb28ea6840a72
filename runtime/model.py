"""The model runner: compiled functions, weights and the KV pool behind one call a step."""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import Any

import numpy as np

from .artifact import Artifact
from .errors import HeddleError
from .kv_memory import pool_pages, pool_text
from .manifest import ENCODER, PLAN_FUNCTION
from .memory import allocate
from .plans import Division, PlanBuilder, PlanLayout, PlanSequence, StepArrays
from .plans.layout import MAX_WORKERS
from .safetensors import storage_dtype
from .sampler import Sampler
from .sampler.compiled import load_sampler
from .threads import set_threads, thread_count
from .tvm import Library, ResultMemory, empty, short, tensor, tensor_array, to_numpy
from .weights import load_weights

LOG = logging.getLogger("heddle")

LOGIT_BYTES = 64 << 20
"""Bytes of logits that one call of `head` gives at most; more rows are computed in turns."""

RESULT_BYTES = 256 << 20
"""Bytes of hidden states and logits of other sizes than the last step's that may be kept for steps to come."""

CASCADE_SHARING = 4
"""Query heads of one KV head up to which rows of several sequences read a shared prefix together. The heads of one row alone
fill the vector units where there are more, and merging costs more than reading the prefix again (docs/performance.md)."""


@dataclasses.dataclass(frozen=True)
class RunnerInfo:
    """Sizes of the model, and the bounds of a step. `window` is the most that any layer looks back (0: all), `few_rows` how many
    rows the largest instance of `body` that is made for few takes. `encoder` as in `runner.RunnerInfo`."""

    vocab_size: int
    context_length: int
    max_tokens: int
    max_seqs: int
    num_pages: int
    page_tokens: int
    window: int = 0
    few_rows: int = 0
    encoder: bool = False


class Function:
    """The instances of one compiled function, with its weights; picks the smallest instance that takes the rows."""

    def __init__(self, artifact: Artifact, library: Library, name: str, weights: dict[str, Any]) -> None:
        info = artifact.manifest.function(name)
        self.params = tensor_array([weights[p] for p in info.params])
        self.instances = [(i.max_rows, library.function(i.symbol)) for i in info.instances]
        self.few_rows = max((rows for rows, _ in self.instances[:-1]), default=0)

    def __call__(self, rows: int, *args: Any) -> Any:
        for most, function in self.instances:
            if rows <= most:
                return function(*args, self.params)
        raise HeddleError(f"{rows} rows in one step, the artifact was compiled for {self.instances[-1][0]}")


class Buffer:
    """A persistent int32 vector shared with compiled code, and its views by length."""

    def __init__(self, size: int) -> None:
        self.array = empty((size,), "int32")
        self._views: dict[int, Any] = {}

    def view(self, length: int) -> Any:
        """A tensor over the first `length` elements."""
        found = self._views.get(length)
        if found is None:
            if len(self._views) > 4096:  # lengths are few in practice; this only bounds a long-lived server
                self._views.clear()
            found = self._views[length] = tensor(self.array[:length])
        return found


class ModelRunner:
    """Loads an artifact and runs steps. One thread at a time may call it."""

    def __init__(self, artifact: Artifact, *, kv_bytes: int | None = None, threads: int | None = None) -> None:
        """`kv_bytes` sizes the KV pool (None: two full contexts); `threads` as in `thread_count`.

        Raises PoolError where memory does not suffice, ArtifactError where library and manifest disagree.
        """
        manifest = artifact.manifest
        self.artifact = artifact
        self.threads = thread_count(threads)
        set_threads(self.threads)
        if len(manifest.caches) != 1 or manifest.caches[0].kind != "paged":
            raise HeddleError(
                f"this runtime serves one paged cache group, the artifact has {len(manifest.caches)} groups"
            )
        group = manifest.caches[0]
        pages = pool_pages(artifact, kv_bytes)
        self.code = Library(artifact.file(artifact.target.library))
        self.load_report, self.weights, weights = load_weights(artifact)
        LOG.info("%s: %s", artifact.path, self.load_report)
        # After the weights: what they have taken is no longer there for the pool.
        self.pool = allocate(
            pages * group.record_bytes,
            f"the KV pool of {pages} pages",
            fix="give a smaller kv_memory, or free memory",
        )
        shape = (pages, *group.record_shape)
        self._records = self.pool.reshape(pages, group.record_bytes)
        LOG.info("%s", pool_text(artifact, pages))
        self._cache = tensor(self.pool.view(storage_dtype(group.dtype)).reshape(shape))
        self._embed, self._body = (Function(artifact, self.code, name, weights) for name in ("embed", "body"))
        encoder = manifest.model.kind == ENCODER
        self._head = None if encoder else Function(artifact, self.code, "head", weights)
        for _, function in self._embed.instances:
            short(function)
        self.layout = manifest.plan.layout()
        sharing = manifest.model.num_heads // manifest.model.num_kv_heads
        self._division = Division(
            min(self.threads, MAX_WORKERS), manifest.plan.window, cascade=sharing <= CASCADE_SHARING
        )
        self.info = RunnerInfo(
            manifest.model.vocab_size,
            manifest.model.context_length,
            manifest.plan.max_tokens,
            manifest.plan.max_seqs,
            pages,
            group.page_tokens,
            manifest.plan.window,
            self._body.few_rows,
            encoder,
        )
        # Pages may be shared: every sequence may have as many as a context needs.
        longest = min(pages, -(-manifest.model.context_length // group.page_tokens))
        self._plan = Buffer(self.layout.size(manifest.plan.max_seqs * (longest + 1)))
        self._hidden: Any = None
        self._results = ResultMemory(RESULT_BYTES)
        self._tokens = Buffer(manifest.plan.max_tokens)
        self._positions = Buffer(manifest.plan.max_tokens)
        self._rows = Buffer(manifest.plan.max_tokens)
        self._builder = plan_builder(self.layout, self.code, self._plan.array, self._positions.array)
        self.sampler = Sampler() if encoder else load_sampler(self.code)
        self._width = manifest.model.hidden_size
        most = self._head.instances[-1][0] if self._head else 0
        self._logit_rows = min(most, max(1, LOGIT_BYTES // (4 * self.info.vocab_size)))
        self._warm_up()

    def forward(self, sequences: list[PlanSequence], tokens: np.ndarray, logit_rows: np.ndarray) -> np.ndarray:
        """Run one step: `tokens` int32[n], in the order of `sequences`; logits float32[r, vocab] of the rows int32[r].

        K and V of all rows are stored in the sequences' pages. Raises ValueError where the step exceeds its bounds, and where
        logits are asked of an encoder.
        """
        n = len(tokens)
        if self._head is None and len(logit_rows):
            raise ValueError("an encoder has no logits")
        self._hidden = None  # its memory serves this step
        few = n <= self._body.few_rows
        used, planned = self._builder.build(sequences, rows_only=few, division=self._division)
        if planned != n:
            raise ValueError(f"{n} tokens, but the sequences of this step have {planned} new rows")
        self._tokens.array[:n] = tokens
        self._results.expect(4 * n * self._width)
        x = self._embed(n, self._tokens.view(n))
        hidden = self._body(n, x, self._positions.view(n), self._plan.view(used), self._cache)
        self._hidden = hidden
        r = len(logit_rows)
        if r <= self._logit_rows:
            return self._logits(hidden, logit_rows) if r else np.empty((0, self.info.vocab_size), np.float32)
        out = np.empty((r, self.info.vocab_size), np.float32)
        for start in range(0, r, self._logit_rows):
            rows = logit_rows[start : start + self._logit_rows]
            out[start : start + len(rows)] = self._logits(hidden, rows)
        return out

    def hidden(self, rows: np.ndarray) -> np.ndarray:
        """Final hidden states float32[r, width], after the last norm, of rows int32[r] of the last `forward`."""
        if self._hidden is None:
            raise ValueError("no step has run whose hidden states could be given")
        return to_numpy(self._hidden)[rows].astype(np.float32, copy=False)

    def _logits(self, hidden: Any, rows: np.ndarray) -> np.ndarray:
        self._rows.array[: len(rows)] = rows
        self._results.expect(4 * len(rows) * self.info.vocab_size)
        assert self._head is not None, "an encoder has no logits"
        return to_numpy(self._head(len(rows), hidden, self._rows.view(len(rows))))

    def copy_pages(self, source: np.ndarray, destination: np.ndarray) -> None:
        """Copy the records of pages `source` int32[k], one after another, to pages `destination` int32[k]."""
        if len(source) != len(destination):
            raise ValueError(f"{len(source)} pages cannot be copied to {len(destination)}")
        self._check_pages(source)
        self._check_pages(destination)
        for old, new in zip(source.tolist(), destination.tolist(), strict=True):
            self._records[new] = self._records[old]

    def save_pages(self, pages: np.ndarray) -> np.ndarray:
        """Copies of the records of `pages` int32[k], uint8[k, record_bytes]."""
        self._check_pages(pages)
        return self._records.take(pages, axis=0)

    def load_pages(self, pages: np.ndarray, saved: np.ndarray) -> None:
        """Write records, as `save_pages` gave them, to `pages` int32[k]."""
        if saved.dtype != np.uint8 or saved.shape != (len(pages), self._records.shape[1]):
            raise ValueError(
                f"{len(pages)} pages are uint8[{len(pages)}, {self._records.shape[1]}],"
                f" not {saved.dtype}{list(saved.shape)}"
            )
        self._check_pages(pages)
        for page, record in zip(pages.tolist(), saved, strict=True):
            self._records[page] = record

    def _check_pages(self, pages: np.ndarray) -> None:
        if len(pages) and not (pages.min() >= 0 and pages.max() < self.info.num_pages):
            raise ValueError(f"pages {pages.tolist()[:8]} are not all in a pool of {self.info.num_pages}")

    def _warm_up(self) -> None:
        """One small step on page 0 (whose slots are written again before they are read): starts the worker threads."""
        rows = np.arange(0 if self.info.encoder else 2, dtype=np.int32)
        sequence = PlanSequence(np.zeros(1, np.int32), 0, 2, causal=not self.info.encoder)
        self.forward([sequence], np.zeros(2, np.int32), rows)


def plan_builder(layout: PlanLayout, library: Library, plan: np.ndarray, positions: np.ndarray) -> PlanBuilder:
    """The artifact's plan builder over these arrays."""
    arrays = dataclasses.replace(StepArrays.around(layout, plan, empty), positions=positions)
    return PlanBuilder(layout, arrays, functools.partial(short(library.kernel(PLAN_FUNCTION)), *map(tensor, arrays)))
