"""Attention over the paged cache set up for timing: what the attention benchmarks share.

Decode calls walk over the layers of one cache that is larger than the L3 cache where the context allows; pages lie scattered
on huge pages.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from limits import allocate, compiled, tensor

from heddle.ir_passes.sparse.attention.kernel import attention
from heddle.runtime.plans import PAGE, Division, PlanLayout, PlanSequence, build_plan
from heddle.runtime.plans.cache import cache_record
from heddle.schedules.registry import KERNELS
from heddle.schedules.target import TargetProfile
from heddle.schedules.vector import storage

CACHE_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class Heads:
    """The attention heads of a model."""

    heads: int
    kv_heads: int
    head_dim: int


MODELS = {
    "qwen2.5-0.5b": Heads(14, 2, 64),
    "llama-3.2-1b": Heads(32, 8, 64),
    "llama-3.1-8b": Heads(32, 8, 128),
    "mha-64": Heads(16, 16, 64),
}


@dataclasses.dataclass(frozen=True)
class Batch:
    """Sequences of `new` rows each after `starts` tokens, of which the first `shared` are the same ones."""

    starts: Sequence[int]
    new: int = 1
    shared: int = 0

    @property
    def tokens(self) -> int:
        """KV entries that the sequences have, each counted with its own."""
        return sum(start + self.new for start in self.starts)

    def sequences(self, rng: np.random.Generator) -> tuple[list[PlanSequence], int]:
        """The sequences on scattered pages, and the number of pages."""
        common = self.shared // PAGE
        counts = [-(-(start + self.new) // PAGE) - common for start in self.starts]
        pages = rng.permutation(common + sum(counts) + 3).astype(np.int32)
        own = np.split(pages[common:], np.cumsum(counts))
        tables = [np.concatenate([pages[:common], mine]) for mine in own[: len(counts)]]
        return [PlanSequence(t, start, self.new) for t, start in zip(tables, self.starts, strict=True)], len(pages)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """One call of the kernel over the next layer; the queries, and what the last call gave."""

    call: Callable[[], None]
    q: np.ndarray
    out: np.ndarray
    record_bytes: int


def prepare(
    model: Heads,
    batch: Batch,
    dtype: str,
    target: TargetProfile,
    *,
    division: Division,
    rows_only: bool,
    contiguous: tuple[np.ndarray, np.ndarray] | None = None,
    layers: int | None = None,
) -> Prepared:
    """Compile the kernel and build plan and cache. `contiguous` K and V float32 [kv_heads, tokens, head_dim] of one
    sequence fill the pages; random numbers without it. `layers` that the calls walk over: None for a cache beyond L3
    in decode calls, one otherwise."""
    rng = np.random.default_rng(0)
    sequences, pages = batch.sequences(rng)
    n = batch.new * len(sequences)
    limits = {"max_tokens": max(n, 32), "max_seqs": max(16, len(sequences))}
    layout = PlanLayout.of(**limits, heads=model.heads, kv_heads=model.kv_heads)
    plan = aligned(np.zeros(layout.size(sum(len(s.pages) for s in sequences)), np.int32))
    _, positions = build_plan(layout, plan, sequences, rows_only=rows_only, division=division)

    record = cache_record(dtype, model.head_dim, model.head_dim)
    record_bytes = record.size * np.dtype(storage(dtype)).itemsize
    one_layer = pages * model.kv_heads * record_bytes
    if layers is None:
        layers = max(1, min(32, CACHE_BYTES // one_layer)) if batch.new == 1 and contiguous is None else 1
    cache = allocate(one_layer * layers).view(storage(dtype)).reshape(pages, layers, model.kv_heads, record.size)
    if contiguous is not None:
        _fill(cache, sequences[0].pages, *contiguous)
    else:
        _randomize(rng, cache, dtype, record.key_scales)
    params = dataclasses.asdict(model) | {"layers": layers, "kv_dtype": dtype, "scale": model.head_dim**-0.5}
    params |= {"rows": "row" if rows_only else "any", **limits}
    kernel = compiled(attention(target=target, **params), target)
    q = aligned(rng.standard_normal((n, model.heads * model.head_dim), np.float32))
    out = aligned(np.zeros_like(q))
    arguments = [tensor(a) for a in (q, aligned(positions), plan, cache)]
    [scratch] = KERNELS["attention"].scratch(**params)
    states = tensor(allocate(4 * math.prod(scratch)).view(np.float32).reshape(scratch))
    layer, result = itertools.cycle(range(layers)), tensor(out)
    return Prepared(lambda: kernel(*arguments, next(layer), result, states), q, out, record_bytes)


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy on huge pages of its own."""
    copy = allocate(max(array.nbytes, 64)).view(array.dtype)[: array.size].reshape(array.shape)
    copy[...] = array
    return copy


def _randomize(rng: np.random.Generator, cache: np.ndarray, dtype: str, scales: int) -> None:
    """Numbers of moderate size. The bits of 16-bit floats in [0.05, 0.5] serve every type but int8."""
    raw = cache.view(np.uint16).reshape(-1)
    raw[...] = rng.integers(0x2A00, 0x3A00, 4096, np.uint16).repeat(1 + raw.size // 4096)[: raw.size]
    if dtype == "int8":
        cache[..., scales : scales + 8 * PAGE].view(np.float32)[...] = 0.01


def _fill(cache: np.ndarray, pages: np.ndarray, k: np.ndarray, v: np.ndarray) -> None:
    """Store contiguous K and V [kv_heads, tokens, head_dim] of one sequence in its pages; float32 only."""
    heads, tokens, dim = k.shape
    whole = [np.zeros((heads, len(pages) * PAGE, dim), np.float32) for _ in range(2)]
    for padded, values in zip(whole, (k, v), strict=True):
        padded[:, :tokens] = values
    keys, values = (x.reshape(heads, len(pages), PAGE, dim).swapaxes(0, 1) for x in whole)
    cache[pages, 0, :, : PAGE * dim] = keys.swapaxes(2, 3).reshape(len(pages), heads, -1)
    cache[pages, 0, :, PAGE * dim :] = values.reshape(len(pages), heads, -1)
