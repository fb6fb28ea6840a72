"""Many callers of one model: each gets what it would get alone, whoever vanishes, cancels, or asks for the impossible."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import heddle
from heddle import AsyncLLM, SamplingParams
from heddle.llm import LLM
from heddle.runtime.errors import RequestError
from heddle.runtime.outputs import RequestOutput
from heddle.runtime.tokenizer import TokenizerError

from .async_tools import LONG, PARAMS, check_idle, last, outputs
from .llm_tools import null_artifact

PRODUCERS, REQUESTS = 16, 200


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return null_artifact(tmp_path, monkeypatch)


@pytest.fixture
def llm(folder: Path) -> Iterator[AsyncLLM]:
    """Afterwards every page is free and nothing is left in the engine."""
    model = AsyncLLM(folder)
    yield model
    model.shutdown(drain=True)
    check_idle(model)


# The whole model


def random_requests(count: int) -> list[tuple[list[int], SamplingParams]]:
    rng = np.random.default_rng(7)
    heads = [rng.integers(3, 4096, 40).tolist() for _ in range(5)]
    found = []
    for i in range(count):
        prompt = heads[rng.integers(5)][: rng.integers(1, 41)] + rng.integers(3, 4096, rng.integers(0, 60)).tolist()
        params = SamplingParams(
            seed=i,
            max_tokens=int(rng.integers(1, 24)),
            temperature=float(rng.choice([0.0, 0.7, 1.3])),
            top_p=float(rng.choice([0.8, 1.0])),
            top_k=int(rng.choice([0, 20])),
            repetition_penalty=float(rng.choice([1.0, 1.2])),
            logprobs=int(rng.integers(3)) if i % 5 == 0 else None,
        )
        found.append((prompt, params))
    return found


def test_200_requests_of_16_producers_get_what_each_gets_alone(tinydoc: Path) -> None:
    requests = random_requests(REQUESTS)
    expected = []
    alone = LLM(tinydoc, threads=2, prefix_cache=False)
    for prompt, params in requests:
        expected += [output.outputs for output in alone.generate(prompt, params)]
    pool = 48 * alone.artifact.manifest.caches[0].record_bytes  # small: requests are preempted
    with AsyncLLM(tinydoc, threads=2, kv_memory=pool, max_waiting=20, when_full="wait") as llm:
        found: dict[int, Any] = {}

        async def produce(mine: range) -> None:
            for i in mine:
                kind = ("cumulative", "delta", "final")[i % 3]
                got = await outputs(llm, *requests[i], output_kind=kind)
                assert got[-1].finished
                found[i] = got[-1].outputs
                if kind == "delta":
                    text = "".join(output.outputs[0].text for output in got)
                    assert text == expected[i][0].text
                    assert sum((output.outputs[0].token_ids for output in got), ()) == expected[i][0].token_ids
                    found[i] = expected[i]

        async def task(of: list[range]) -> None:
            await asyncio.gather(*map(produce, of))

        ranges = [range(p, REQUESTS, PRODUCERS) for p in range(PRODUCERS)]
        loops = [threading.Thread(target=asyncio.run, args=(task(ranges[k::4]),)) for k in range(4)]
        for loop in loops:
            loop.start()
        for loop in loops:
            loop.join()
        assert [found.get(i) for i in range(REQUESTS)] == expected
        assert llm.metrics.cached_tokens > 0
    check_idle(llm)


def test_idle_costs_nothing(tinydoc: Path) -> None:
    """Neither the engine's thread nor TVM's workers spin."""
    with AsyncLLM(tinydoc, threads=2) as llm:
        asyncio.run(last(llm, [5, 6, 7]))
        for _ in range(20):  # workers spin for a while after their last call, longer on a busy machine
            begin, used = time.monotonic(), time.process_time()
            time.sleep(1)
            share = (time.process_time() - used) / (time.monotonic() - begin)
            if share < 0.01:
                return
    pytest.fail(f"an idle engine uses {100 * share:.1f} % of a CPU")


def test_embeddings_and_errors_of_loading(tinydoc: Path, tmp_path: Path) -> None:
    with LLM_pair(tinydoc) as (llm, plain):
        for pooling in ("mean", "last"):
            expected = plain.embed("The cache is", pooling)[0]
            assert np.array_equal(asyncio.run(llm.embed("The cache is", pooling)), expected)
        with pytest.raises(RequestError, match="pooling is 'max'"):
            asyncio.run(llm.embed("x", "max"))
    with pytest.raises(heddle.HeddleError, match="config.json"):
        AsyncLLM(tmp_path)
    with pytest.raises(RequestError, match="when_full is 'later'"):
        AsyncLLM(tinydoc, when_full="later")
    with pytest.raises(RequestError, match="LLM has no option 'polcy'"):
        AsyncLLM(tinydoc, polcy="fair")


class LLM_pair:
    """Both interfaces of one model."""

    def __init__(self, path: Path) -> None:
        self.both = AsyncLLM(path, threads=2), LLM(path, threads=2)

    def __enter__(self) -> tuple[AsyncLLM, LLM]:
        return self.both

    def __exit__(self, *_: object) -> None:
        self.both[0].shutdown()


# What comes out


def test_kinds_of_output(llm: AsyncLLM, folder: Path) -> None:
    params = SamplingParams(seed=2, n=3, max_tokens=9, logprobs=1)
    whole = LLM(folder).generate("The cache", params)[0]

    async def run(kind: str) -> list[RequestOutput]:
        return await outputs(llm, "The cache", params, output_kind=kind)

    (final,) = asyncio.run(run("final"))
    assert final.outputs == whole.outputs
    assert final.metrics is not None
    assert final.metrics.finished >= final.metrics.arrival
    grown = asyncio.run(run("cumulative"))
    assert grown[-1].outputs == whole.outputs
    for before, after in itertools.pairwise(grown):
        assert not before.finished
        for a, b in zip(before.outputs, after.outputs, strict=False):
            assert b.text.startswith(a.text)
            assert b.token_ids[: len(a.token_ids)] == a.token_ids
            assert (b.logprobs or [])[: len(a.logprobs or [])] == (a.logprobs or [])
    deltas = asyncio.run(run("delta"))
    for i, expected in enumerate(whole.outputs):
        mine = [o for output in deltas for o in output.outputs if o.index == i]
        assert "".join(o.text for o in mine) == expected.text
        assert sum((o.token_ids for o in mine), ()) == expected.token_ids
        assert [table for o in mine for table in o.logprobs or []] == expected.logprobs
        assert [o.finish_reason for o in mine if o.finish_reason] == [expected.finish_reason]
    best = SamplingParams(seed=2, best_of=3, max_tokens=9)
    for kind in ("cumulative", "delta", "final"):
        (one,) = asyncio.run(outputs(llm, "x", best, output_kind=kind))
        assert one.outputs == LLM(folder).generate("x", best)[0].outputs


def test_chat(llm: AsyncLLM, folder: Path) -> None:
    talk = [{"role": "user", "content": "Hi"}]

    async def run() -> list[RequestOutput]:
        return [output async for output in llm.chat(talk, PARAMS)]

    assert asyncio.run(run())[-1].outputs == LLM(folder).chat(talk, PARAMS)[0].outputs
    with pytest.raises(RequestError, match="leaves tools out"):
        llm.chat(talk, tools=[{"type": "function"}])


# Bad requests


def test_bad_requests_are_refused_alone(llm: AsyncLLM, folder: Path) -> None:
    wrong: list[tuple[Any, SamplingParams, dict[str, Any], str]] = [
        ("", PARAMS, {}, "prompt is empty"),
        ([5000], PARAMS, {}, "token id 5000 at position 0"),
        ([1] * 300, PARAMS, {}, "the prompt has 300 tokens; the context holds 256"),
        ([1], SamplingParams(stop_token_ids=[9999]), {}, "the model knows 0 to 4095"),
        ([1], PARAMS, {"timeout": 0}, "timeout is 0"),
        ([1], PARAMS, {"priority": "high"}, "priority is 'high'"),
        ([1], PARAMS, {"salt": 3}, "salt is 3"),
        ([1], PARAMS, {"output_kind": "all"}, "output_kind is 'all'"),
    ]

    async def run() -> RequestOutput:
        good = asyncio.ensure_future(last(llm, "x"))
        for prompt, params, options, message in wrong:
            with pytest.raises(RequestError, match=message):
                llm.generate(prompt, params, **options)  # at once, before anything is awaited
        return await good

    assert asyncio.run(run()).outputs == LLM(folder).generate("x", PARAMS)[0].outputs


def test_an_id_in_use_is_refused_and_its_owner_lives(llm: AsyncLLM) -> None:
    async def run() -> None:
        first = llm.generate("x", LONG, request_id="mine")
        await anext(first)
        with pytest.raises(RequestError, match="'mine' is in use"):
            await last(llm, "y", request_id="mine")
        rest = [output async for output in first]
        assert rest[-1].finished

    asyncio.run(run())


def test_a_model_without_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with AsyncLLM(folder) as llm:
        assert asyncio.run(last(llm, [5])).outputs[0].text == ""
        with pytest.raises(TokenizerError, match=r"has no tokenizer\.json"):
            llm.generate("x")
