"""The thread count: where it comes from, and that compiled code really uses it. Each Python thread has a pool of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from heddle.runtime import threads
from heddle.runtime.errors import ThreadsError
from heddle.runtime.features import physical_cores
from heddle.runtime.threads import set_threads, thread_count
from heddle.runtime.tvm import global_function


def in_new_thread(task: Callable[[], list[int]]) -> list[int]:
    """Run `task` where no pool exists yet."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(task).result()


def used(count: int) -> int:
    set_threads(count)
    return int(global_function("runtime.NumThreads")())


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVM_NUM_THREADS", "2")  # set_threads writes both; monkeypatch puts them back
    monkeypatch.setenv("TVM_BIND_THREADS", "0")


def test_the_count_goes_up_and_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "physical_cores", lambda: (0, 1, 2, 3))
    assert in_new_thread(lambda: [used(n) for n in (1, 4, 2, 3, 1, 4)]) == [1, 4, 2, 3, 1, 4]


def test_more_threads_than_cores_can_be_had_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "physical_cores", lambda: (0,))
    assert in_new_thread(lambda: [used(n) for n in (3, 1, 3)]) == [3, 1, 3]


def test_a_pool_that_is_too_small_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "physical_cores", lambda: (0, 1))
    with pytest.raises(ThreadsError, match=r"threads=3 is not possible here: this thread's pool has 2[\s\S]*fix: "):
        in_new_thread(lambda: [used(n) for n in (1, 3)])


def test_default_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVM_NUM_THREADS", "3")
    assert thread_count() == 3
    assert thread_count(1) == 1
    monkeypatch.delenv("TVM_NUM_THREADS")
    assert thread_count() == len(physical_cores())


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, "2"])
def test_impossible_counts(bad: object) -> None:
    with pytest.raises(ThreadsError, match="threads="):
        thread_count(bad)  # type: ignore[arg-type]


def test_an_unreadable_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVM_NUM_THREADS", "two")
    with pytest.raises(ThreadsError, match="TVM_NUM_THREADS='two' is not a number"):
        thread_count()
