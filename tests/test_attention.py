"""A row's attention has the same bits in any batch, chunk, tile, target and thread count, and reads nothing unwritten."""

from __future__ import annotations

import dataclasses
import functools
import mmap
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import tvm_ffi

from heddle.ir_passes.sparse.attention.kernel import attention, states_shape
from heddle.runtime.plans import PAGE, Division, PlanLayout, PlanSequence, build_plan
from heddle.schedules.catalog import kv_append
from heddle.schedules.compat import PrimFunc, tvm
from heddle.schedules.cpu.kv_cache import record
from heddle.schedules.cpu.kv_int8 import write_int8
from heddle.schedules.cpu.reference import narrow as stored
from heddle.schedules.target import TargetProfile
from tests.cpu_targets import TARGETS

LIMITS = {"max_tokens": 2560, "max_seqs": 8}
LAYOUT = PlanLayout(**LIMITS)
NOWHERE = 1 << 30  # a physical page that no pool has
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python names it from 3.13 on


@functools.cache
def compiled(func: PrimFunc, target: TargetProfile) -> Callable[..., None]:
    return tvm.compile(func.with_attr("global_symbol", "main"), target=target.tvm_target())["main"]


def use_threads(n: int) -> None:
    tvm_ffi.get_global_func("runtime.config_threadpool")(1, n)


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    use_threads(2)
    yield
    use_threads(2)


@dataclasses.dataclass(frozen=True)
class Model:
    """The static side of one attention layer."""

    heads: int
    kv_heads: int
    head_dim: int
    kv_dtype: str = "float32"
    window: int = 0

    @property
    def params(self) -> dict[str, object]:
        return {
            "layers": 2,
            "kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "kv_dtype": self.kv_dtype,
            **LIMITS,
        }

    @property
    def layout(self) -> PlanLayout:
        return PlanLayout.of(**LIMITS, heads=self.heads, kv_heads=self.kv_heads)

    def states(self) -> tvm.runtime.Tensor:
        """The kernel's scratch."""
        [shape] = states_shape(heads=self.heads, head_dim=self.head_dim, **LIMITS)
        return tvm.runtime.tensor(np.full(shape, np.nan, np.float32))

    def kernel(self, target: TargetProfile, rows: str = "any") -> Callable[..., None]:
        params = {"heads": self.heads, "scale": self.head_dim**-0.5, "window": self.window, "rows": rows}
        return compiled(attention(target=target, **params, **self.params), target)


class Sequences:
    """Random queries, keys and values of some sequences over a pool whose every unwritten element is NaN.

    Pages lie scattered. Table entries that no row may read (beyond a chunk, or before its window) name no page of the pool.
    """

    def __init__(self, model: Model, lengths: Sequence[int]) -> None:
        rng = np.random.default_rng(len(lengths))
        self.model, self.lengths = model, lengths
        width = model.kv_heads * model.head_dim
        self.q = [rng.standard_normal((n, model.heads * model.head_dim), np.float32) * 3 for n in lengths]
        dtype = "float32" if model.kv_dtype == "int8" else model.kv_dtype
        self.k = [stored(rng.standard_normal((n, width), np.float32), dtype) for n in lengths]
        self.v = [stored(rng.standard_normal((n, width), np.float32), dtype) for n in lengths]
        counts = [-(-n // PAGE) for n in lengths]
        order = rng.permutation(sum(counts) + 2).astype(np.int32)
        self.tables = np.split(order[: sum(counts)], np.cumsum(counts)[:-1])
        self.nan = stored(np.full((), np.nan, np.float32), dtype)
        shape = (len(order), 2, model.kv_heads, record(model.head_dim, model.head_dim, model.kv_dtype))
        # Bytes of 255 are codes like any other, and scales that are NaN.
        self.cache = np.full(shape, 255, np.uint8) if model.kv_dtype == "int8" else np.full(shape, self.nan)

    def write(self, seq: int, start: int, end: int) -> None:
        """Put the keys and values of positions start to end into their slots of layer 1."""
        for position in range(start, end):
            self._put(seq, position, self.k[seq][position], self.v[seq][position])

    def forget(self, seq: int, end: int) -> None:
        """Make the keys and values of the positions before `end` NaN again."""
        self.cache[self.tables[seq][: end // PAGE], 1] = 255 if self.model.kv_dtype == "int8" else self.nan
        for position in range(end - end % PAGE, end):
            self._put(seq, position, self.nan, self.nan)

    def _put(self, seq: int, position: int, k: np.ndarray, v: np.ndarray) -> None:
        heads, dim = self.model.kv_heads, self.model.head_dim
        page = self.cache[self.tables[seq][position // PAGE], 1]
        if self.model.kv_dtype == "int8":
            token = (np.broadcast_to(x, heads * dim).reshape(1, heads, dim) for x in (k, v))
            with np.errstate(invalid="ignore"):
                write_int8(page[None], np.zeros(1, int), np.array([position % PAGE]), *token)
            return
        page[:, position % PAGE : PAGE * dim : PAGE] = np.broadcast_to(k, heads * dim).reshape(heads, dim)
        at = (PAGE + position % PAGE) * dim
        page[:, at : at + dim] = np.broadcast_to(v, heads * dim).reshape(heads, dim)

    def run(
        self,
        steps: Sequence[Sequence[tuple[int, int, int]]],
        target: TargetProfile,
        rows: str = "any",
        rows_only: bool = False,
        workers: int = 2,
    ) -> list[np.ndarray]:
        """Results of every sequence; each step has (sequence, start, rows), writes its keys and values, then attends."""
        kernel = self.model.kernel(target, rows)
        results = [np.zeros_like(q) for q in self.q]
        plan = np.zeros(self.model.layout.size(sum(map(len, self.tables))), np.int32)
        for step in steps:
            sequences = []
            for seq, start, n in step:
                self.write(seq, start, start + n)
                table = self.tables[seq].copy()
                table[-(-(start + n) // PAGE) :] = NOWHERE
                if self.model.window:
                    unseen = max(start - self.model.window + 1, 0)
                    self.forget(seq, unseen)
                    table[: unseen // PAGE] = NOWHERE
                sequences.append(PlanSequence(table, start, n))
            division = Division(workers, self.model.window)
            used, positions = build_plan(self.model.layout, plan, sequences, rows_only=rows_only, division=division)
            q = np.concatenate([self.q[seq][start : start + n] for seq, start, n in step])
            out = tvm.runtime.tensor(np.full_like(q, np.nan))
            kernel(*map(tvm.runtime.tensor, (q, positions, plan[:used], self.cache)), 1, out, self.model.states())
            for (seq, start, n), part in zip(
                step, np.split(out.numpy(), np.cumsum([s[2] for s in step])[:-1]), strict=True
            ):
                results[seq][start : start + n] = part
        return results


def chunks(seq: int, length: int, size: int) -> list[list[tuple[int, int, int]]]:
    return [[(seq, start, min(size, length - start))] for start in range(0, length, size)]


def expect_equal(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> None:
    for g, w in zip(got, want, strict=True):
        assert np.isfinite(w).all()
        wrong = np.flatnonzero((g.view(np.uint32) != w.view(np.uint32)).any(1))
        assert not len(wrong), f"rows {wrong[:10]} of {len(g)} differ"


MODELS = [
    Model(4, 4, 32),
    Model(14, 2, 64, "float16"),
    Model(4, 1, 72, "bfloat16"),
    Model(6, 2, 80, "float16", window=40),
    Model(5, 5, 96, "float32", window=200),
    Model(8, 2, 128, "bfloat16"),
    Model(12, 1, 256, "float16"),
    Model(4, 2, 112, "int8", window=128),
    Model(2, 1, 6),
    Model(14, 2, 64, "int8"),
    Model(3, 1, 70, "int8"),
]


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_bits_depend_on_nothing_but_the_sequence(model: Model) -> None:
    length = 2 * 128 + 45
    alone = Sequences(model, [length]).run(chunks(0, length, 1), TARGETS[0], rows_only=True)
    for target in TARGETS:
        for size in (7, 64, 512):
            expect_equal(Sequences(model, [length]).run(chunks(0, length, size), target), alone)
    use_threads(3)
    expect_equal(Sequences(model, [length]).run(chunks(0, length, 50), TARGETS[-1]), alone)


@pytest.mark.parametrize(("window", "kv_dtype"), [(0, "int8"), (100, "float16"), (2000, "bfloat16")])
def test_segments_merge_to_the_same_bits(window: int, kv_dtype: str) -> None:
    model, length = Model(2, 1, 32, kv_dtype, window), 2048 + 300
    whole = Sequences(model, [length]).run([[(0, 0, length)]], TARGETS[0])
    for target in TARGETS:
        expect_equal(Sequences(model, [length]).run(chunks(0, length, 300), target), whole)
        late = Sequences(model, [length])
        late.write(0, 0, 1990)
        rows = late.run([[(0, p, 1)] for p in range(1990, length)], target, "row", rows_only=True)
        expect_equal([rows[0][1990:]], [whole[0][1990:]])


@pytest.mark.parametrize(("threads", "kv_dtype"), [(1, "float16"), (2, "int8"), (3, "float32")])
def test_a_mixed_batch_changes_no_bits(threads: int, kv_dtype: str) -> None:
    model, lengths = Model(6, 2, 64, kv_dtype, 90), [33, 170, 4, 300, 1, 97]
    alone = Sequences(model, lengths)
    want = alone.run([step for seq, n in enumerate(lengths) for step in chunks(seq, n, n)], TARGETS[0])
    use_threads(threads)
    for target in TARGETS:
        batch = Sequences(model, lengths)
        halves = [
            [(i, 0, n // 2) for i, n in enumerate(lengths) if n > 1],
            [(i, n // 2, n - n // 2) for i, n in enumerate(lengths)],
        ]
        expect_equal(batch.run(halves, target), want)
        expect_equal(Sequences(model, lengths).run(halves, target, "row", rows_only=True), want)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_no_tasks_write_nothing(target: TargetProfile) -> None:
    model = Model(6, 2, 64, "float16", 90)
    out = tvm.runtime.tensor(np.full((1, 6 * 64), 5, np.float32))
    plan = np.zeros(model.layout.size(1), np.int32)
    cache = np.zeros((1, 2, 2, record(64)), np.float16)
    for rows in ("row", "any"):
        arrays = (np.zeros((1, 6 * 64), np.float32), np.zeros(1, np.int32), plan, cache)
        model.kernel(target, rows)(*map(tvm.runtime.tensor, arrays), 1, out, model.states())
    assert (out.numpy() == 5).all()


def test_a_pool_of_more_than_two_to_the_31_elements() -> None:
    model, length = Model(2, 2, 64, "float16"), 40
    small = Sequences(model, [length])
    want = small.run([[(0, 0, length)]], TARGETS[-1])
    per_page = small.cache[0].size
    pages = (1 << 31) // per_page + 1000
    pool = mmap.mmap(-1, pages * per_page * 2, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
    large = Sequences(model, [length])
    moved = np.arange(len(large.cache)) + pages - len(large.cache)
    large.cache = np.frombuffer(pool, np.float16).reshape(pages, *small.cache.shape[1:])
    large.tables = [moved[t].astype(np.int32) for t in large.tables]
    large.write(0, 0, length)
    plan = np.zeros(model.layout.size(3), np.int32)
    used, positions = build_plan(model.layout, plan, [PlanSequence(large.tables[0], 0, length)], rows_only=False)
    out = tvm.runtime.tensor(np.zeros_like(want[0]))
    cache = tvm.runtime.from_dlpack(large.cache)
    arrays = [tvm.runtime.tensor(a) for a in (large.q[0], positions, plan[:used])]
    model.kernel(TARGETS[-1])(*arrays, cache, 1, out, model.states())
    expect_equal([out.numpy()], want)

    append = compiled(kv_append(target=TARGETS[-1], **model.params), TARGETS[-1])
    k, v = (np.ones((length, 128), np.float32) * x for x in (2, 3))
    append(*map(tvm.runtime.tensor, (k, v, plan[:used])), cache, 0)
    written = large.cache[large.tables[0], 0]
    assert (written[:2, :, : PAGE * 64] == 2).all()
    assert (written[:2, :, PAGE * 64 :] == 3).all()
