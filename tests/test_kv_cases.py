"""The KV cache, case by case: what is found, what goes first, what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from heddle.runtime.errors import PoolError
from heddle.runtime.kv import KVCache

from .kv_tools import PAGE, PAGES, Store


def cache(pages: int = PAGES, **options: Any) -> tuple[KVCache, Store]:
    store = Store(pages)
    return KVCache(store, pages, PAGE, **options), store


def prompt(length: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + length, dtype=np.int32)


def publish(kv: KVCache, tokens: np.ndarray, salt: str = "") -> np.ndarray:
    """Pages that hold all of `tokens`, known to others."""
    got = kv.acquire(tokens, salt, -(-len(tokens) // PAGE))
    assert got.tokens == 0
    kv.publish(tokens, got.pages, salt, len(tokens))
    return got.pages


def test_the_last_token_is_always_computed() -> None:
    """Its logits are wanted. So of a prompt that is cached as a whole the last page is copied, all but its last token."""
    kv, store = cache()
    pages = publish(kv, prompt(8))
    store.records[pages] = [[1, 2, 3, 4], [5, 6, 7, 8]]
    got = kv.acquire(prompt(8), "", 0)
    assert got.tokens == 7
    assert got.pages[0] == pages[0]
    assert got.pages[1] != pages[1]
    assert store.records[got.pages[1]].tolist() == [5, 6, 7, 8]
    assert kv.lookup(prompt(9)).tokens == 8
    assert kv.lookup(prompt(9)).tail is None
    assert kv.lookup(prompt(1)).tokens == 0
    kv.check_integrity([pages, got.pages])


def test_the_tail_is_the_page_with_most_in_common() -> None:
    kv, _ = cache()
    pages = publish(kv, np.array([0, 1, 2, 3, 4, 9, 9, 9], np.int32))
    kv.publish(np.array([0, 1, 2, 3, 4, 5, 6, 9]), np.concatenate((pages[:1], kv.allocate(1))), "", 8)
    kv.publish(np.array([0, 1, 2, 3, 5, 5, 6, 7]), np.concatenate((pages[:1], last := kv.allocate(1))), "", 8)
    assert kv.lookup(prompt(40)).tokens == 4 + 3
    assert kv.lookup(np.array([0, 1, 2, 3, 5, 0])).tail == (int(last[0]), 1)
    assert kv.lookup(np.array([0, 1, 2, 3, 6, 0])).tail is None


def test_salts_and_namespaces_share_nothing() -> None:
    kv, _ = cache()
    publish(kv, prompt(8), "a")
    assert kv.lookup(prompt(9), "a").tokens == 8
    assert kv.lookup(prompt(9)).tokens == kv.lookup(prompt(9), "b").tokens == 0


def test_the_least_recently_used_goes_first() -> None:
    kv, _ = cache(6)
    a, b, c = (publish(kv, prompt(8, first)) for first in (0, 100, 200))
    for pages in (b, a, c):
        kv.release(pages)
    kv.release(kv.acquire(prompt(9, 100), "", 0).pages)  # b was used again
    held = kv.allocate(3)
    assert [kv.lookup(prompt(9, first)).tokens for first in (0, 100, 200)] == [0, 8, 4]
    assert kv.stats.evictions == 3
    with pytest.raises(PoolError, match="4 pages are asked for, 3 of 6 can be had") as caught:
        kv.allocate(4)
    assert "0 are free and 3 are cached prefixes" in str(caught.value)
    kv.check_integrity([held])


def test_the_page_to_copy_is_computed_again_where_it_is_the_last() -> None:
    kv, _ = cache(3)
    kv.release(publish(kv, prompt(8)))
    other = kv.allocate(1)
    cached = kv.lookup(prompt(8))
    assert (cached.tokens, cached.evictable, cached.tail) == (7, 1, (int(cached.tail[0]) if cached.tail else -1, 3))
    assert kv.num_free == 2
    got = kv.acquire(prompt(8), "", 0)
    assert (got.tokens, len(got.pages), kv.num_free) == (4, 2, 0)
    kv.check_integrity([other, got.pages])


def test_equal_contents_stay_private() -> None:
    """Two requests that computed the same at the same time: the second one's pages are its own, and found are the first's."""
    kv, _ = cache()
    first, second = kv.allocate(2), kv.allocate(3)
    kv.publish(prompt(8), first, "", 8)
    kv.publish(prompt(12), second, "", 12)
    assert kv.lookup(prompt(13)).pages.tolist() == [*first, second[2]]
    kv.release(first)
    kv.release(second[:2])
    assert kv.num_free == PAGES - 1
    kv.check_integrity([second[2:]])


def test_without_a_prefix_cache_nothing_is_kept() -> None:
    kv, _ = cache(prefix_cache=False)
    kv.release(publish(kv, prompt(8)))
    assert kv.acquire(prompt(9), "", 3).tokens == 0
    assert kv.num_free == PAGES - 3


def test_statistics() -> None:
    kv, _ = cache()
    kv.release(publish(kv, prompt(8)))
    kv.acquire(prompt(11), "", 1)
    assert dataclasses.astuple(kv.stats) == (2, 19, 8, 0, 0)


def test_swap_space_is_bounded() -> None:
    kv, _ = cache(swap_bytes=2 * PAGE * 8 + 5)
    assert kv.num_swappable == 2
    with pytest.raises(PoolError, match=r"3 pages are to be swapped out, the swap space of .* has room for 2"):
        kv.swap_out(kv.allocate(3))
    none, _ = cache()
    with pytest.raises(PoolError, match="has room for 0"):
        none.swap_out(none.allocate(1))


def test_misuse_is_told() -> None:
    kv, _ = cache(swap_bytes=1 << 20)
    swapped = kv.swap_out(kv.allocate(2))
    back = kv.swap_in(swapped)
    for call in (kv.swap_in, kv.drop):
        with pytest.raises(ValueError, match="were swapped in or dropped before"):
            call(swapped)
    for computed in (-1, 9):
        with pytest.raises(ValueError, match="tokens are not in 2 pages of 4"):
            kv.fork(back, computed)
    with pytest.raises(ValueError, match="9 tokens are computed, the request has 8"):
        kv.publish(prompt(8), back, "", 9)
    kv.check_integrity([back])
    with pytest.raises(RuntimeError, match="other counts than owners"):
        kv.check_integrity([])
    kv.publish(prompt(8), back, "", 8)
    kv._tree.idle[int(back[0])] = kv._tree._by_page[int(back[0])]
    with pytest.raises(RuntimeError, match="are idle, or not, wrongly"):
        kv.check_integrity([back])
