"""The page pool: every page is free once or held, whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from heddle.runtime.errors import PoolError
from heddle.runtime.pages import PagePool


class Pool(RuleBasedStateMachine):
    """Owners take, share and give back pages; the model is a list of owners."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(12)
        self.owners: list[list[int]] = []

    @rule(count=st.integers(0, 15))
    def allocate(self, count: int) -> None:
        free = self.pool.num_free
        if count > free:
            with pytest.raises(PoolError, match=f"{count} pages are asked for, {free} of 12 are free"):
                self.pool.allocate(count)
            assert self.pool.num_free == free
        else:
            pages = self.pool.allocate(count).tolist()
            assert not set(pages) & {page for owner in self.owners for page in owner}
            self.owners.append(pages)

    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        if self.owners:
            owner = data.draw(st.sampled_from(self.owners))
            shared = owner[: data.draw(st.integers(0, len(owner)))]
            self.pool.retain(shared)
            self.owners.append(list(shared))

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.owners:
            self.pool.release(self.owners.pop(data.draw(st.integers(0, len(self.owners) - 1))))

    @invariant()
    def counts_agree(self) -> None:
        self.pool.check_integrity(self.owners)
        assert self.pool.num_free == 12 - len({page for owner in self.owners for page in owner})


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_released_pages_are_reused_first() -> None:
    pool = PagePool(8)
    pages = pool.allocate(3)
    pool.release(pages[1:2])
    assert pool.allocate(1).tolist() == pages[1:2].tolist()


@pytest.mark.parametrize("pages", [[0], [1, 1], [-1], [8]])
def test_misuse_changes_nothing(pages: list[int]) -> None:
    pool = PagePool(8)
    held = pool.allocate(2)
    pool.release(held[:1])  # page 0 is free, page 1 is held once
    with pytest.raises(ValueError, match="pages"):
        pool.release(pages)
    pool.check_integrity([[1]])


def test_free_pages_cannot_be_shared() -> None:
    pool = PagePool(2)
    with pytest.raises(ValueError, match=r"pages \[1\] are free"):
        pool.retain([1])


def test_integrity_finds_a_lost_page() -> None:
    pool = PagePool(4)
    pool.allocate(2)
    with pytest.raises(RuntimeError, match=r"pages \[1\] have other counts"):
        pool.check_integrity([[0]])
    pool._free.pop()
    with pytest.raises(RuntimeError, match="free list"):
        pool.check_integrity()


def test_empty_pool() -> None:
    with pytest.raises(PoolError, match="0 pages"):
        PagePool(0)
