"""The order of a batch: who shares pages comes together, every text stays the same, and less is computed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.llm import LLM
from heddle.offline import depth_first, prefix_tree
from heddle.runtime.engine import Engine
from heddle.runtime.errors import RequestError
from heddle.runtime.null_runner import NullRunner
from heddle.runtime.request import Request
from heddle.runtime.sampling import SamplingParams

from .llm_tools import null_artifact

PAGE = 4


def requests(prompts: list[list[int]], lengths: list[int] | None = None, salts: list[str] | None = None) -> Any:
    engine = Engine(NullRunner(page_tokens=PAGE, context_length=512, num_pages=512))
    return [
        engine.prepare(
            prompt,
            SamplingParams(max_tokens=(lengths or [4] * len(prompts))[i]),
            salt=(salts or [""] * len(prompts))[i],
        )
        for i, prompt in enumerate(prompts)
    ]


def pages(request: Request) -> list[tuple[Any, ...]]:
    """Names of the whole pages of a prompt."""
    ids = request.prompt_ids.tolist()
    return [(request.salt, *ids[: end * PAGE]) for end in range(1, len(ids) // PAGE + 1)]


PROMPTS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=14), min_size=1, max_size=14)


@settings(max_examples=150, deadline=None)
@given(PROMPTS, st.data())
def test_depth_first_visits_every_page_once(prompts: list[list[int]], data: st.DataObject) -> None:
    """Requests that share a page follow one another; the demand of the tree is that of its pages and of all decodes."""
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=len(prompts), max_size=len(prompts)))
    salts = data.draw(st.lists(st.sampled_from(["", "b"]), min_size=len(prompts), max_size=len(prompts)))
    given_requests = requests(prompts, lengths, salts)
    tree = prefix_tree(given_requests, PAGE)
    order = depth_first(tree)
    assert sorted(map(id, order)) == sorted(map(id, given_requests))
    left: set[Any] = set()
    before: set[Any] = set()
    for request in order:
        mine = set(pages(request))
        assert not mine & left, "a page is needed again after others came between"
        left |= before - mine
        before = mine
    shared = {page for request in order for page in pages(request)}
    rests = sum(request.num_prompt % PAGE for request in order)
    assert tree.prefill == len(shared) * PAGE + rests
    assert tree.decode == sum(lengths)


def test_branches_go_from_prefill_to_decode() -> None:
    found = depth_first(prefix_tree(requests([[1] * 8, [2] * 8, [3] * 40], [100, 10, 10]), PAGE))
    assert [int(request.prompt_ids[0]) for request in found] == [3, 2, 1]


# Through LLM


def mixed_groups(groups: int = 6, members: int = 6, prefix: int = 96) -> list[list[int]]:
    """Prompts of several groups with a common prefix each, shuffled."""
    rng = np.random.default_rng(5)
    prompts = []
    for _ in range(groups):
        head = rng.integers(3, 4000, prefix).tolist()
        prompts += [head + rng.integers(3, 4000, rng.integers(3, 20)).tolist() for _ in range(members)]
    return [prompts[i] for i in rng.permutation(len(prompts))]


@pytest.fixture
def null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LLM]:
    model = LLM(null_artifact(tmp_path, monkeypatch, num_pages=30))
    yield model
    model.engine.check_integrity()
    assert not model.engine.has_work


def run(llm: LLM, prompts: list[Any], params: Any, order: str, **options: Any) -> tuple[list[Any], int]:
    """The completions, and the prompt tokens that were computed."""
    llm.engine.kv.clear()
    before = llm.metrics.prefill_tokens
    outputs = llm.generate(prompts, params, order=order, **options)
    return [output.outputs for output in outputs], llm.metrics.prefill_tokens - before


def test_shared_order_computes_less(null: LLM) -> None:
    """30 pages hold three requests and hardly more; in the given order prefixes are evicted before they are used again."""
    prompts = mixed_groups()
    params = [SamplingParams(seed=i, max_tokens=3 + i % 9) for i in range(len(prompts))]
    given_texts, given_tokens = run(null, prompts, params, "given")
    shared_texts, shared_tokens = run(null, prompts, params, "shared")
    assert shared_texts == given_texts
    least = 6 * 96 + sum(len(prompt) - 96 for prompt in prompts)
    assert shared_tokens <= 1.1 * least
    assert shared_tokens < 0.6 * given_tokens


def test_one_prefix_is_computed_once(null: LLM) -> None:
    """All at once: the others wait for the first, and are let in when the prefix is there, not when its text ends."""
    prompts = mixed_groups(groups=1)
    params = SamplingParams(seed=1, max_tokens=20, ignore_eos=True)
    _, tokens = run(null, prompts, params, "shared")
    assert tokens <= 96 + sum(len(prompt) - 96 for prompt in prompts) + 16
    null.runner.calls.clear()  # type: ignore[attr-defined]
    _, tokens = run(null, prompts, params, "shared")
    together = max(len(call) for call in null.runner.calls)  # type: ignore[attr-defined]
    assert together == 3


@pytest.mark.parametrize("bounds", [{"num_pages": 12}, {"num_pages": 400}, {"num_pages": 30, "max_seqs": 8}])
@pytest.mark.parametrize("options", [{}, {"max_waiting": 1}, {"policy": "fair"}, {"prefix_cache": False}])
def test_any_engine_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bounds: dict[str, int], options: dict[str, Any]
) -> None:
    llm = LLM(null_artifact(tmp_path, monkeypatch, **bounds), **options)
    prompts: list[Any] = [*mixed_groups(3, 4), "The cache", [9], [9], [9, 8]]
    params = [SamplingParams(seed=i, max_tokens=1 + i % 30, n=1 + i % 2) for i in range(len(prompts))]
    extra = {"tenant": [str(i % 3) for i in range(len(prompts))], "salt": ["", "b"] * 8}
    expected, _ = run(llm, prompts, params, "given", **extra)
    assert run(llm, prompts, params, "shared", **extra)[0] == expected
    llm.engine.check_integrity()


def test_orders(null: LLM) -> None:
    assert null.generate([], order="shared") == []
    with pytest.raises(RequestError, match="order is 'sorted'; allowed are 'given', 'shared'"):
        null.generate("x", order="sorted")
    talk = [{"role": "user", "content": "Hi"}]
    params = SamplingParams(seed=1)
    assert null.chat(talk, params, order="shared")[0].outputs == null.chat(talk, params)[0].outputs


def test_the_model_gives_the_same_texts(tinydoc: Path) -> None:
    records = LLM(tinydoc, threads=2).artifact.manifest.caches[0].record_bytes
    llm = LLM(tinydoc, threads=2, kv_memory=40 * records)
    prompts = mixed_groups(8, 6)
    params = [SamplingParams(seed=i, max_tokens=8 + i % 9) for i in range(len(prompts))]
    given_texts, given_tokens = run(llm, prompts, params, "given")
    shared_texts, shared_tokens = run(llm, prompts, params, "shared")
    assert shared_texts == given_texts
    assert shared_tokens < 0.7 * given_tokens
