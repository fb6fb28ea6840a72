"""The KV cache: whatever is shared, copied, evicted and swapped, a request reads what its own tokens have written.

The store gets one number a token: which prefix (salt and all tokens up to there) was written, as attention would have it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from heddle.runtime.errors import PoolError
from heddle.runtime.kv import KVCache, Swapped
from heddle.runtime.prefix import HOLE

from .kv_tools import PAGE, PAGES, SWAP_PAGES, Store, StoreError


@dataclasses.dataclass(eq=False)
class Holder:
    """A request: `computed` of its tokens have been written to `pages`, or to `swapped`."""

    salt: str
    tokens: list[int]
    pages: np.ndarray
    computed: int
    swapped: Swapped | None = None

    @property
    def array(self) -> np.ndarray:
        return np.array(self.tokens, np.int32)


salts = st.sampled_from(["", "", "tenant"])
ends = st.lists(st.integers(0, 1), min_size=1, max_size=PAGE)
# Few beginnings, so that prompts have much in common, and any end.
prompts = st.builds(
    lambda start, length, end: [start] * length + end,
    st.integers(0, 1),
    st.integers(0, 5 * PAGE),
    ends,
)
wishes = st.sampled_from(["few", "enough", "all"])
faults = st.sampled_from([False, False, True])


class Cache(RuleBasedStateMachine):
    """Requests come, compute, fork, are swapped and go; any operation may hit a store that fails."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.kv = KVCache(self.store, PAGES, PAGE, swap_bytes=SWAP_PAGES * PAGE * 8)
        self.holders: list[Holder] = []
        self.names: dict[tuple[Any, ...], int] = {}

    # What should be in the cache, and what is.

    def written(self, salt: str, tokens: list[int], end: int) -> list[int]:
        """What the store should have for the first `end` tokens."""
        return [self.names.setdefault((salt, *tokens[: i + 1]), len(self.names)) for i in range(end)]

    def read(self, pages: np.ndarray, end: int) -> list[int]:
        """What it has; HOLE where the page was given back."""
        slots = self.store.records[pages]
        slots[pages == HOLE] = HOLE
        return slots.ravel()[:end].tolist()

    def check_holder(self, holder: Holder) -> None:
        expected = self.written(holder.salt, holder.tokens, holder.computed)
        for found, wanted in zip(self.read(holder.pages, holder.computed), expected, strict=True):
            assert found in (HOLE, wanted)

    def saved(self, swapped: Swapped) -> bytes:
        assert swapped.saved is not None
        return swapped.saved.tobytes()

    def snapshot(self) -> Any:
        owned = [
            (h.pages.tolist(), self.read(h.pages, h.computed), h.swapped and self.saved(h.swapped))
            for h in self.holders
        ]
        return self.kv.num_free, self.kv.num_swappable, dataclasses.asdict(self.kv.stats) | {"evictions": 0}, owned

    def attempt(self, action: Callable[[], Any], *, fault: bool) -> Any:
        """The result of `action`, None where the store failed; then all is as before."""
        before = self.snapshot()
        self.store.failing = fault
        try:
            return action()
        except (StoreError, PoolError) as error:
            assert self.snapshot() == before
            if isinstance(error, PoolError):
                raise
            return None
        finally:
            self.store.failing = False

    def choose(self, data: st.DataObject, swapped: bool = False) -> Holder | None:
        some = [holder for holder in self.holders if (holder.swapped is not None) == swapped]
        return data.draw(st.sampled_from(some)) if some else None

    @contextlib.contextmanager
    def refused_if(self, refused: bool) -> Iterator[None]:
        """A PoolError comes where it must, and only there."""
        if refused:
            with pytest.raises(PoolError):
                yield
        else:
            yield

    # What requests do.

    @initialize(arrivals=st.lists(st.tuples(prompts, salts, st.booleans()), min_size=2, max_size=4))
    def begin(self, arrivals: list[tuple[list[int], str, bool]]) -> None:
        """Hypothesis leaves out rules at random; something is in the cache all the same."""
        for tokens, salt, stays in arrivals:
            if -(-len(tokens) // PAGE) <= self.kv.num_free:
                self.acquire(tokens, salt, "enough", True, False)
                if not stays:
                    self.kv.release(self.holders.pop().pages)

    @rule(data=st.data(), keep=st.integers(0, 24), end=ends, wish=wishes, served=st.booleans(), fault=faults)
    def follow(self, data: st.DataObject, keep: int, end: list[int], wish: str, served: bool, fault: bool) -> None:
        """A prompt that begins like another request's tokens: the next turn of a conversation."""
        if holder := self.choose(data):
            self.acquire(holder.tokens[:keep] + end, holder.salt, wish, served, fault)

    @rule(tokens=prompts, salt=salts, wish=wishes, served=st.booleans(), fault=faults)
    def acquire(self, tokens: list[int], salt: str, wish: str, served: bool, fault: bool) -> None:
        """A request comes with few pages, enough or all that there are; and may be served and published at once."""
        cached = self.kv.lookup(np.array(tokens, np.int32), salt)
        free, taken = self.kv.num_free, cached.evictable + (cached.tail is not None)
        enough = -(-len(tokens) // PAGE) - len(cached.pages) - (cached.tail is not None)
        spare = {"few": 0, "enough": max(0, enough), "all": max(0, free - taken)}[wish]
        with self.refused_if(taken + spare > free):
            got = self.attempt(lambda: self.kv.acquire(np.array(tokens, np.int32), salt, spare), fault=fault)
            if got is None:
                return
            event(
                f"{len(cached.pages)} pages cached, tail {cached.tail is not None}, copied {got.tokens == cached.tokens}"
            )
            assert len(got.pages) == len(cached.pages) + (cached.tail is not None) + spare
            assert got.pages[: len(cached.pages)].tolist() == cached.pages.tolist()
            assert got.tokens in (cached.tokens, len(cached.pages) * PAGE)
            assert free - self.kv.num_free == taken + spare
            if got.tokens != cached.tokens:
                assert self.kv.num_free == 0  # nothing else could have been evicted
            self.holders.append(holder := Holder(salt, tokens, got.pages, got.tokens))
            if served and len(got.pages) * PAGE >= len(tokens):
                self.write(holder, tokens)
                self.kv.publish(holder.array, holder.pages, salt, holder.computed)

    def write(self, holder: Holder, tokens: list[int]) -> None:
        """Compute the pending ones of `tokens`."""
        written = self.written(holder.salt, tokens, len(tokens))
        for at in range(holder.computed, len(tokens)):
            self.store.records[holder.pages[at // PAGE], at % PAGE] = written[at]
        holder.tokens, holder.computed = tokens, len(tokens)

    @rule(tokens=prompts, salt=salts)
    def lookup(self, tokens: list[int], salt: str) -> None:
        before = self.snapshot(), list(self.kv._tree.idle)
        found = self.kv.lookup(np.array(tokens, np.int32), salt)
        assert (self.snapshot(), list(self.kv._tree.idle)) == before
        assert found.tokens <= len(tokens) - 1
        table, full = found.pages, len(found.pages) * PAGE
        if found.tail:
            page, count = found.tail
            assert 0 < count < PAGE + 1
            table = np.append(table, np.int32(page))
            assert found.tokens == full + count
        else:
            assert found.tokens == full
        assert self.read(table, found.tokens) == self.written(salt, tokens, found.tokens)

    @rule(data=st.data(), more=st.lists(st.integers(0, 1), max_size=2 * PAGE))
    def compute(self, data: st.DataObject, more: list[int]) -> None:
        """Write pending tokens, and those that the request got now, on new pages if need be."""
        holder = self.choose(data)
        if holder is None:
            return
        tokens = holder.tokens + more
        missing = max(0, -(-len(tokens) // PAGE) - len(holder.pages))
        with self.refused_if(missing > self.kv.num_free):
            new = self.attempt(lambda: self.kv.allocate(missing), fault=False)
            holder.pages = np.concatenate((holder.pages, new))
            self.write(holder, tokens)

    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        if holder := self.choose(data):
            free = self.kv.num_free
            self.kv.publish(holder.array, holder.pages, holder.salt, holder.computed)
            assert self.kv.num_free == free

    @rule(data=st.data(), fault=faults)
    def fork(self, data: st.DataObject, fault: bool) -> None:
        if holder := self.choose(data):
            end = data.draw(st.integers(holder.computed - holder.computed % PAGE, holder.computed))
            copies = int(end % PAGE > 0)
            with self.refused_if(copies > self.kv.num_free):
                pages = self.attempt(lambda: self.kv.fork(holder.pages, end), fault=fault)
                if pages is not None:
                    assert len(pages) == -(-end // PAGE)
                    self.holders.append(Holder(holder.salt, holder.tokens[:end] or [0], pages, end))

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if holder := self.choose(data):
            self.holders.remove(holder)
            self.kv.release(holder.pages)

    @rule(data=st.data())
    def slide(self, data: st.DataObject) -> None:
        """Pages that a sliding window has passed go back, each once."""
        if holder := self.choose(data):
            first = data.draw(st.integers(-1, holder.computed // PAGE))
            held = int((holder.pages[: max(0, first)] != HOLE).sum())
            assert self.kv.release_before(holder.pages, first) == held
            assert self.kv.release_before(holder.pages, first) == 0

    @rule(data=st.data(), fault=faults)
    def swap_out(self, data: st.DataObject, fault: bool) -> None:
        if holder := self.choose(data):
            held = int((holder.pages != HOLE).sum())
            with self.refused_if(held > self.kv.num_swappable):
                swapped = self.attempt(lambda: self.kv.swap_out(holder.pages), fault=fault)
                if swapped is not None:
                    holder.pages, holder.swapped = holder.pages[:0], swapped

    @rule(data=st.data(), fault=faults)
    def swap_in(self, data: st.DataObject, fault: bool) -> None:
        if holder := self.choose(data, swapped=True):
            swapped = holder.swapped
            assert swapped is not None
            with self.refused_if(swapped.num_pages > self.kv.num_free):
                pages = self.attempt(lambda: self.kv.swap_in(swapped), fault=fault)
                if pages is not None:
                    holder.pages, holder.swapped = pages, None

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        if holder := self.choose(data, swapped=True):
            assert holder.swapped is not None
            self.kv.drop(holder.swapped)
            self.holders.remove(holder)

    @rule()
    def clear(self) -> None:
        free = self.kv.num_free
        self.kv.clear()
        assert self.kv.num_free == free
        assert self.kv.stats.queries == 0

    @invariant()
    def nothing_is_lost(self) -> None:
        self.kv.check_integrity(holder.pages for holder in self.holders)
        held = {page for holder in self.holders for page in holder.pages.tolist()} - {HOLE}
        assert self.kv.num_free == PAGES - len(held)
        for holder in self.holders:
            if holder.swapped is None:
                self.check_holder(holder)

    def teardown(self) -> None:
        for holder in self.holders:
            if holder.swapped is None:
                self.kv.release(holder.pages)
            else:
                self.kv.drop(holder.swapped)
        self.kv.check_integrity([])
        assert (self.kv.num_free, self.kv.num_swappable) == (PAGES, SWAP_PAGES)
        self.kv.clear()
        assert self.kv.allocate(PAGES).tolist() != []


TestCache = Cache.TestCase
TestCache.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


@pytest.mark.slow
class TestCacheLong(Cache.TestCase):  # type: ignore[name-defined, misc]
    settings = settings(max_examples=5000, stateful_step_count=60, deadline=None)
