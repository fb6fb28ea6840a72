"""The KV cache on real models: cached, copied, forked, swapped or slid past, the logits have the bits of a plain prefill."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from heddle.compiler.driver import compile_model
from heddle.runtime.kv import KVCache
from heddle.runtime.model import ModelRunner
from heddle.runtime.plans import PAGE, PlanSequence
from heddle.runtime.prefix import HOLE

from .conftest import ROOT
from .model_tools import Sequences, runner_of

LENGTH = 11 * PAGE + 5
WINDOW = 37
SOME = [pytest.param(name, marks=pytest.mark.slow) for name in ("float16", "bfloat16")]


def small_model(folder: Path, kv_dtype: str, window: int = 0) -> Path:
    """tinydoc with two layers, a small vocabulary and random weights, compiled."""
    config = json.loads((ROOT / "examples" / "tinydoc" / "config.json").read_text())
    config |= {"num_hidden_layers": 2, "vocab_size": 331, "max_position_embeddings": 512, "intermediate_size": 128}
    if window:
        config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": window}
        config = {key: value for key, value in config.items() if key not in ("attention_bias", "mlp_bias")}
    (folder / "config.json").write_text(json.dumps(config))
    return compile_model(
        folder,
        folder / "model.heddle",
        kv_dtype=kv_dtype,
        random_weights=3,
        max_tokens=128,
        max_seqs=8,
        use_cache=False,
    )


@pytest.fixture(scope="module", params=["float32", "int8", *SOME])
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    return runner_of(small_model(tmp_path_factory.mktemp("model"), request.param), tokens=40 * PAGE)


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(8).integers(3, 331, LENGTH).astype(np.int32)


@pytest.fixture
def kv(runner: ModelRunner) -> KVCache:
    """A cache over pages of NaN (or of the largest codes, with NaN for scales)."""
    runner.pool[:] = 0xFF
    return KVCache(runner, runner.info.num_pages, PAGE, swap_bytes=1 << 30)


def plain(runner: ModelRunner, tokens: np.ndarray) -> np.ndarray:
    """Logits of all positions without any cache."""
    runner.pool[:] = 0xFF
    return Sequences(runner, [tokens], seed=1).finish(chunk=50)[0]


def serve(
    runner: ModelRunner, tokens: np.ndarray, pages: np.ndarray, start: int, end: int, chunk: int = 23
) -> np.ndarray:
    """Logits of the positions from `start` to `end`, computed on `pages`."""
    logits = []
    for begin in range(start, end, chunk):
        rows = min(chunk, end - begin)
        plan = [PlanSequence(pages[: -(-(begin + rows) // PAGE)], begin, rows)]
        logits.append(runner.forward(plan, tokens[begin : begin + rows], np.arange(rows, dtype=np.int32)))
    return np.concatenate(logits)


def same(a: np.ndarray, b: np.ndarray) -> None:
    assert np.isfinite(a).all()
    np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


def fill(kv: KVCache, runner: ModelRunner, tokens: np.ndarray) -> np.ndarray:
    """Serve and publish a sequence; the pages are still held."""
    pages = kv.acquire(tokens, "", -(-len(tokens) // PAGE)).pages
    serve(runner, tokens, pages, 0, len(tokens))
    kv.publish(tokens, pages, "", len(tokens))
    return pages


@pytest.mark.parametrize("shared", [LENGTH, 6 * PAGE, 6 * PAGE + 1, 7 * PAGE - 1, 3])
@pytest.mark.parametrize("finished", [True, False])
def test_prefix_hits(runner: ModelRunner, tokens: np.ndarray, shared: int, finished: bool) -> None:
    """Whole pages are shared, and the beginning of the next one is copied, from requests that are gone or still run."""
    other = tokens.copy()
    other[shared:] = (other[shared:] + 1) % 331
    expected, theirs = plain(runner, other), plain(runner, tokens)
    runner.pool[:] = 0xFF
    kv = KVCache(runner, runner.info.num_pages, PAGE)
    first = fill(kv, runner, tokens)
    if finished:
        kv.release(first)
    got = kv.acquire(other, "", -(-LENGTH // PAGE) - len(kv.lookup(other).pages))
    assert got.tokens == min(shared, LENGTH // PAGE * PAGE)
    same(serve(runner, other, got.pages, got.tokens, LENGTH), expected[got.tokens :])
    if not finished:  # its pages have not been written by the other one
        end = LENGTH - 1
        same(serve(runner, tokens, first, end, LENGTH), theirs[end:])


@pytest.mark.parametrize("computed", [5 * PAGE, 5 * PAGE + 7])
def test_forks(runner: ModelRunner, kv: KVCache, tokens: np.ndarray, computed: int) -> None:
    """Two continuations of one beginning, token by token in the same steps."""
    other = tokens.copy()
    other[computed:] = (other[computed:] + 1) % 331
    expected = [plain(runner, t) for t in (tokens, other)]
    pages = kv.allocate(-(-LENGTH // PAGE))
    serve(runner, tokens, pages, 0, computed)
    copy = kv.fork(pages, computed)
    tables = [pages, np.concatenate((copy, kv.allocate(len(pages) - len(copy))))]
    for at in range(computed, LENGTH):
        plan = [PlanSequence(table, at, 1) for table in tables]
        logits = runner.forward(plan, np.array([tokens[at], other[at]], np.int32), np.arange(2, dtype=np.int32))
        same(logits, np.stack([e[at] for e in expected]))
    kv.check_integrity(tables)


@pytest.mark.parametrize("computed", [0, 5 * PAGE + 7])
def test_swapping(runner: ModelRunner, kv: KVCache, tokens: np.ndarray, computed: int) -> None:
    expected = plain(runner, tokens)
    pages = kv.allocate(-(-LENGTH // PAGE))
    logits = [serve(runner, tokens, pages, 0, computed)] if computed else []
    swapped = kv.swap_out(pages)
    runner.pool[:] = 0xFF
    kv.allocate(3)  # it comes back elsewhere
    pages = kv.swap_in(swapped)
    logits.append(serve(runner, tokens, pages, computed, LENGTH))
    same(np.concatenate(logits), expected)


@pytest.fixture(scope="module", params=["float32", pytest.param("int8", marks=pytest.mark.slow)])
def windowed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    return runner_of(small_model(tmp_path_factory.mktemp("model"), request.param, WINDOW), tokens=40 * PAGE)


@pytest.mark.parametrize("chunk", [1, 7, 30])
def test_windows_slide(windowed: ModelRunner, tokens: np.ndarray, chunk: int) -> None:
    """Pages that no row sees any more are given back and overwritten at once; nobody reads their places in the table."""
    window = windowed.info.window
    assert window == WINDOW
    expected = plain(windowed, tokens)
    windowed.pool[:] = 0xFF
    kv = KVCache(windowed, windowed.info.num_pages, PAGE)
    pages, logits = kv.allocate(-(-LENGTH // PAGE)), []
    for start in range(0, LENGTH, chunk):
        kv.release_before(pages, max(0, start + 1 - window) // PAGE)
        kv.check_integrity([pages])
        free = np.setdiff1d(np.arange(windowed.info.num_pages, dtype=np.int32), pages)
        windowed.load_pages(free, np.full((len(free), windowed.pool.size // windowed.info.num_pages), 0xFF, np.uint8))
        logits.append(serve(windowed, tokens, pages, start, min(start + chunk, LENGTH), chunk))
    same(np.concatenate(logits), expected)
    assert (pages == HOLE).sum() == max(0, start + 1 - window) // PAGE > 0


def test_shared_pages_may_be_more_than_the_pool(runner: ModelRunner, kv: KVCache, tokens: np.ndarray) -> None:
    """Eight sequences of twelve pages in a pool of forty, in one step: the page tables together are longer than the pool."""
    expected = plain(runner, tokens)
    runner.pool[:] = 0xFF
    first = fill(kv, runner, tokens)
    tables = [first] + [kv.fork(first, LENGTH - 1) for _ in range(7)]
    assert sum(map(len, tables)) > runner.info.num_pages
    plan = [PlanSequence(table, LENGTH - 1, 1) for table in tables]
    logits = runner.forward(plan, np.repeat(tokens[-1:], 8), np.arange(8, dtype=np.int32))
    same(logits, np.repeat(expected[-1:], 8, axis=0))


def test_pages_are_records(runner: ModelRunner) -> None:
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (4, runner.pool.size // runner.info.num_pages), np.uint8)
    pages = np.array([7, 3, 39, 0], np.int32)
    runner.load_pages(pages, records)
    runner.copy_pages(pages[:2], np.array([5, 6], np.int32))
    np.testing.assert_array_equal(runner.save_pages(np.array([6, 39, 5], np.int32)), records[[1, 2, 0]])
    np.testing.assert_array_equal(runner.pool.reshape(len(runner.pool) // records.shape[1], -1)[7], records[0])
    for wrong in ([-1], [40]):
        for call in (
            runner.save_pages,
            lambda p: runner.copy_pages(p, pages[:1]),
            lambda p: runner.copy_pages(pages[:1], p),
        ):
            with pytest.raises(ValueError, match="are not all in a pool of 40"):
                call(np.array(wrong, np.int32))
        with pytest.raises(ValueError, match="are not all in a pool of 40"):
            runner.load_pages(np.array(wrong, np.int32), records[:1])
    with pytest.raises(ValueError, match="1 pages cannot be copied to 2"):
        runner.copy_pages(pages[:1], pages[1:3])
    with pytest.raises(ValueError, match=r"1 pages are uint8\[1, "):
        runner.load_pages(pages[:1], records)
