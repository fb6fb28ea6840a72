"""The model runner: compiled functions, weights and the KV pool behind one call a step."""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import Any

import numpy as np

from .artifact import Artifact
from .errors import ArtifactError, HeddleError, PoolError
from .manifest import LIBRARY_FILE, PLAN_FUNCTION
from .memory import LoadReport, allocate, load_file, size_text
from .plans import Division, PlanBuilder, PlanLayout, PlanSequence, StepArrays
from .safetensors import read_header, storage_dtype
from .threads import set_threads, thread_count
from .tvm import Library, empty, tensor, tensor_array, to_numpy

LOG = logging.getLogger("heddle")

LOGIT_BYTES = 64 << 20
"""Bytes of logits that one call of `head` gives at most; more rows are computed in turns."""

CASCADE_SHARING = 4
"""Query heads of one KV head up to which rows of several sequences read a shared prefix together. The heads of one row alone
fill the vector units where there are more, and merging costs more than reading the prefix again (docs/performance.md)."""


@dataclasses.dataclass(frozen=True)
class RunnerInfo:
    """Sizes of the model, and the bounds of a step."""

    vocab_size: int
    context_length: int
    max_tokens: int
    max_seqs: int
    num_pages: int
    page_tokens: int


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
        self.code = Library(artifact.file(LIBRARY_FILE))
        self.load_report, self.weights, weights = load_weights(artifact)
        LOG.info("%s: %s", artifact.path, self.load_report)
        # After the weights: what they have taken is no longer there for the pool.
        self.pool = allocate(
            pages * group.record_bytes,
            f"the KV pool of {pages} pages",
            fix="give a smaller kv_memory, or free memory",
        )
        shape = (pages, *group.record_shape)
        self._cache = tensor(self.pool.view(storage_dtype(group.dtype)).reshape(shape))
        self._embed, self._body, self._head = (
            Function(artifact, self.code, name, weights) for name in ("embed", "body", "head")
        )
        self.layout = manifest.plan.layout()
        sharing = manifest.model.num_heads // manifest.model.num_kv_heads
        self._division = Division(self.threads, manifest.plan.window, cascade=sharing <= CASCADE_SHARING)
        self.info = RunnerInfo(
            manifest.model.vocab_size,
            manifest.model.context_length,
            manifest.plan.max_tokens,
            manifest.plan.max_seqs,
            pages,
            group.page_tokens,
        )
        self._plan = Buffer(self.layout.size(pages + manifest.plan.max_seqs))
        self._tokens = Buffer(manifest.plan.max_tokens)
        self._positions = Buffer(manifest.plan.max_tokens)
        self._rows = Buffer(manifest.plan.max_tokens)
        self._builder = plan_builder(self.layout, self.code, self._plan.array, self._positions.array)
        most = self._head.instances[-1][0]
        self._logit_rows = max(1, min(most, LOGIT_BYTES // (4 * self.info.vocab_size)))
        self._warm_up()

    def forward(self, sequences: list[PlanSequence], tokens: np.ndarray, logit_rows: np.ndarray) -> np.ndarray:
        """Run one step: `tokens` int32[n], in the order of `sequences`; logits float32[r, vocab] of the rows int32[r].

        K and V of all rows are stored in the sequences' pages. Raises ValueError where the step exceeds its bounds.
        """
        n = len(tokens)
        few = n <= self._body.few_rows
        used, planned = self._builder.build(sequences, rows_only=few, division=self._division)
        if planned != n:
            raise ValueError(f"{n} tokens, but the sequences of this step have {planned} new rows")
        self._tokens.array[:n] = tokens
        x = self._embed(n, self._tokens.view(n))
        hidden = self._body(n, x, self._positions.view(n), self._plan.view(used), self._cache)
        r = len(logit_rows)
        if r <= self._logit_rows:
            return self._logits(hidden, logit_rows) if r else np.empty((0, self.info.vocab_size), np.float32)
        out = np.empty((r, self.info.vocab_size), np.float32)
        for start in range(0, r, self._logit_rows):
            rows = logit_rows[start : start + self._logit_rows]
            out[start : start + len(rows)] = self._logits(hidden, rows)
        return out

    def _logits(self, hidden: Any, rows: np.ndarray) -> np.ndarray:
        self._rows.array[: len(rows)] = rows
        return to_numpy(self._head(len(rows), hidden, self._rows.view(len(rows))))

    def _warm_up(self) -> None:
        """One small step on page 0 (whose slots are written again before they are read): starts the worker threads."""
        rows = np.arange(2, dtype=np.int32)
        self.forward([PlanSequence(np.zeros(1, np.int32), 0, 2)], np.zeros(2, np.int32), rows)


def plan_builder(layout: PlanLayout, library: Library, plan: np.ndarray, positions: np.ndarray) -> PlanBuilder:
    """The artifact's plan builder over these arrays."""
    arrays = dataclasses.replace(StepArrays.around(layout, plan, empty), positions=positions)
    return PlanBuilder(layout, arrays, functools.partial(library.kernel(PLAN_FUNCTION), *map(tensor, arrays)))


def pool_pages(artifact: Artifact, kv_bytes: int | None) -> int:
    """Pages of a pool of `kv_bytes`; None means two full contexts. PoolError where not even one page fits."""
    group, context = artifact.manifest.caches[0], artifact.manifest.model.context_length
    if kv_bytes is None:
        return 2 * -(-context // group.page_tokens)
    pages = kv_bytes // group.record_bytes
    if pages < 1:
        raise PoolError(
            f"a KV pool of {size_text(kv_bytes)} holds no page: one page needs {size_text(group.record_bytes)}",
            f"a page holds {group.page_tokens} tokens of all layers",
            "give a larger kv_memory",
        )
    return int(pages)


def load_weights(artifact: Artifact) -> tuple[LoadReport, np.ndarray, dict[str, Any]]:
    """The bytes of the weight file in memory, and tensors by name over them; ArtifactError where the manifest disagrees."""
    path = artifact.file(artifact.manifest.weights.file)
    entries = read_header(path)
    for name, info in artifact.manifest.weights.tensors.items():
        found = entries.get(name)
        if found is None or (found.dtype, found.shape) != (info.dtype, info.shape):
            held = f"{found.dtype}{list(found.shape)}" if found else "no such tensor"
            raise ArtifactError(
                f"manifest.weights.tensors[{name!r}] is {info.dtype}{list(info.shape)}, {path.name} has {held}",
                fix="copy the artifact again, or compile again",
            )
    data, report = load_file(path)
    return report, data, {name: tensor(entry.view(data)) for name, entry in entries.items()}
