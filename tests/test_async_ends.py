"""How requests of AsyncLLM end early: callers that go away, deadlines, a full queue, an engine that stops or dies."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heddle import AbortedError, AsyncLLM, EngineDeadError
from heddle.runtime.errors import DeadlineError, QueueFullError
from heddle.runtime.outputs import RequestOutput

from .async_tools import LONG, check_idle, exhaust, last, wait_until
from .llm_tools import null_artifact


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


# Callers that go away


def test_cancelled_tasks_and_closed_iterators_abort_their_requests(llm: AsyncLLM) -> None:
    async def run() -> None:
        task = asyncio.ensure_future(last(llm, "a", LONG))
        other = asyncio.ensure_future(last(llm, "b", LONG))
        iterator = llm.generate("c", LONG)
        await anext(iterator)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await iterator.aclose()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(last(llm, "d", LONG), 1e-3)
        assert len((await other).outputs[0].token_ids) == 150

    asyncio.run(run())
    wait_until(lambda: not llm._engine.has_work, "a request was not aborted")


def test_an_iterator_that_is_dropped_is_aborted(llm: AsyncLLM) -> None:
    async def run() -> None:
        async for _ in llm.generate("x", LONG):
            break
        gc.collect()
        while llm._engine.has_work:
            await asyncio.sleep(0.001)  # asyncio closes it in its loop

    llm._engine.runner.delay = 0.01
    asyncio.run(run())
    assert llm.metrics.decode_tokens < 149, "it went on to its end"


def test_a_closed_loop_aborts_its_requests(llm: AsyncLLM) -> None:
    """A producer that dies without a word: nothing runs in its loop any more, nobody closes its iterator."""
    loop = asyncio.new_event_loop()
    iterator = llm.generate("x", LONG)
    llm._engine.runner.delay = 0.01
    loop.run_until_complete(anext(iterator))
    loop.close()
    wait_until(lambda: not llm._engine.has_work, "the request of a closed loop goes on")
    assert llm.metrics.decode_tokens < 149, "it went on to its end"
    asyncio.run(last(llm, "y"))


def test_abort_by_id(llm: AsyncLLM) -> None:
    async def run() -> None:
        iterator = llm.generate("x", LONG, request_id="mine")
        await anext(iterator)
        other = asyncio.ensure_future(last(llm, "y"))
        llm.abort("nobody")
        llm.abort("mine")
        with pytest.raises(AbortedError, match="'mine' was aborted"):
            await exhaust(iterator)
        assert (await other).finished

    asyncio.run(run())


# Time and room


def test_deadlines(llm: AsyncLLM) -> None:
    llm._engine.runner.delay = 0.01

    async def run() -> None:
        late, other = await asyncio.gather(last(llm, "x", LONG, timeout=0.1), last(llm, "y"))
        assert late.outputs[0].finish_reason == "timeout"
        assert 0 < len(late.outputs[0].token_ids) < 150
        assert other.outputs[0].finish_reason == "length"

    asyncio.run(run())


def test_a_full_queue_refuses_or_waits(folder: Path) -> None:
    """Three are served at a time and two may wait."""

    async def run(llm: AsyncLLM, **options: Any) -> list[Any]:
        llm._engine.runner.delay = 0.002
        tasks = [last(llm, "x", LONG, **options) for _ in range(9)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    with AsyncLLM(folder, max_waiting=2) as llm:
        found = asyncio.run(run(llm))
        refused = [error for error in found if isinstance(error, QueueFullError)]
        assert len(refused) == 4
        assert "max_waiting=2" in str(refused[0])
        assert sum(isinstance(output, RequestOutput) for output in found) == 9 - len(refused)
    with AsyncLLM(folder, max_waiting=2, when_full="wait") as llm:
        assert all(isinstance(output, RequestOutput) for output in asyncio.run(run(llm)))
        late = asyncio.run(run(llm, timeout=0.15))
        assert sum(isinstance(error, DeadlineError) for error in late) >= 2
        for output in late:
            assert isinstance(output, DeadlineError) or output.outputs[0].finish_reason == "timeout"
        check_idle(llm)


# The end


def test_a_step_that_fails_ends_its_requests_only(llm: AsyncLLM) -> None:
    async def run() -> None:
        llm._engine.runner.fail_next = RuntimeError("the device is on fire")
        with pytest.raises(RuntimeError, match="on fire"):
            await last(llm, "x")
        assert (await last(llm, "x")).finished

    asyncio.run(run())


def test_a_dead_engine_fails_everything_by_name(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    llm = AsyncLLM(folder)

    async def run() -> list[Any]:
        begun = [llm.generate("x", LONG), llm.generate("y", LONG)]
        for iterator in begun:
            await anext(iterator)
        llm._engine.step = lambda: 1 // 0  # type: ignore[assignment, return-value]
        return await asyncio.gather(*map(exhaust, begun), return_exceptions=True)

    for error in asyncio.run(run()):
        assert isinstance(error, EngineDeadError)
        assert "ZeroDivisionError" in str(error)
    with pytest.raises(EngineDeadError, match="ZeroDivisionError"):
        asyncio.run(last(llm, "z"))
    llm.shutdown()


def test_shutdown_drains_or_aborts(folder: Path) -> None:
    async def run(drain: bool) -> Any:
        llm = AsyncLLM(folder)
        llm._engine.runner.delay = 0.001
        task = asyncio.ensure_future(last(llm, "x", LONG))
        while not llm.metrics.running:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(llm.shutdown, drain)
        check_idle(llm)
        with pytest.raises(EngineDeadError, match="was shut down"):
            await last(llm, "y")
        llm.shutdown()  # once more changes nothing
        return (await asyncio.gather(task, return_exceptions=True))[0]

    assert asyncio.run(run(True)).finished
    error = asyncio.run(run(False))
    assert isinstance(error, AbortedError)
    assert "shut down" in str(error)


def test_context_managers(folder: Path) -> None:
    async def run() -> None:
        async with AsyncLLM(folder) as llm:
            task = asyncio.ensure_future(last(llm, "x", LONG))
            await asyncio.sleep(0)
        assert (await task).finished
        assert not llm._thread._thread.is_alive()
        tasks = []
        with pytest.raises(ValueError, match="mine"):
            await fail(tasks)
        with pytest.raises(AbortedError):
            await tasks[0]

    async def fail(tasks: list[Any]) -> None:
        async with AsyncLLM(folder) as llm:
            llm._engine.runner.delay = 0.01
            tasks.append(asyncio.ensure_future(last(llm, "x", LONG)))
            await asyncio.sleep(0.02)
            raise ValueError("mine")

    asyncio.run(run())


def test_a_forgotten_model_ends_its_thread(folder: Path) -> None:
    llm = AsyncLLM(folder)
    thread = llm._thread._thread
    asyncio.run(last(llm, "x"))
    del llm
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()
