"""The KV cache as the engine sees it: pages are taken, shared, copied, forgotten and swapped here, whoever owns their memory.

A page that is full is never written again, so it may belong to several requests and to the prefix tree; the page that a request
writes is its own (a partial one is copied before). Every method does all or nothing: after an exception, also one of the store,
all requests hold what they held and `num_free` is what it was. Only cached pages that nobody held may be gone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from .errors import PoolError
from .memory import size_text
from .pages import PagePool
from .prefix import HOLE, PrefixTree

NO_PAGES = np.empty(0, np.int32)


class PageStore(Protocol):
    """The memory of the pages (a runner). A page is one contiguous record of all layers."""

    def copy_pages(self, source: np.ndarray, destination: np.ndarray) -> None:
        """Copy the records `source` int32[k] to `destination` int32[k]; no page may be in both."""
        ...

    def save_pages(self, pages: np.ndarray) -> np.ndarray:
        """Copies of the records, uint8[k, record_bytes]."""
        ...

    def load_pages(self, pages: np.ndarray, saved: np.ndarray) -> None:
        """Write what `save_pages` gave to the records `pages` int32[k]."""
        ...


@dataclasses.dataclass(frozen=True)
class Cached:
    """What is in the cache of a prompt: its first `tokens` tokens.

    pages: int32, the full ones in order. evictable: how many of these are counted in `num_free` now (nobody holds them).
    tail: a further page, and how many of its first tokens are the prompt's; `acquire` copies it to a new page.
    """

    tokens: int
    pages: np.ndarray
    evictable: int
    tail: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Acquired:
    """Pages int32 of a request, in order; the keys and values of its first `tokens` tokens are in them already."""

    tokens: int
    pages: np.ndarray


@dataclasses.dataclass(eq=False)
class Swapped:
    """Pages on the host. `held` bool[n] is False where the table had a HOLE; `saved` is None when they are back or dropped."""

    held: np.ndarray
    saved: np.ndarray | None

    @property
    def num_pages(self) -> int:
        """Pages that `swap_in` takes."""
        return int(self.held.sum())


@dataclasses.dataclass
class KVStats:
    """Prompts asked for and their tokens, tokens found, pages evicted, pages swapped out, since the last `clear`."""

    queries: int = 0
    query_tokens: int = 0
    hit_tokens: int = 0
    evictions: int = 0
    swapped_out: int = 0


class KVCache:
    """All pages of a store, by owner. Not thread-safe. Page tables are int32 arrays and may have a HOLE anywhere.

    namespace: identity of the model and the type of its cache; with a request's salt it begins every chain of hashes.
    swap_bytes: host memory for swapped pages.
    """

    def __init__(
        self,
        store: PageStore,
        num_pages: int,
        page_tokens: int,
        *,
        prefix_cache: bool = True,
        namespace: bytes = b"",
        swap_bytes: int = 0,
    ) -> None:
        self.page_tokens = page_tokens
        self.prefix_cache = prefix_cache
        self.stats = KVStats()
        self._store = store
        self._pool = PagePool(num_pages)
        self._tree = PrefixTree(page_tokens, namespace)
        self._swap_bytes = swap_bytes
        self._record_bytes = store.save_pages(NO_PAGES).shape[1] if swap_bytes else 0
        self._swapped: list[Swapped] = []

    @property
    def num_pages(self) -> int:
        """Pages in all."""
        return self._pool.num_pages

    @property
    def num_free(self) -> int:
        """Pages that can be had: free ones, and those that only the prefix tree holds."""
        return self._pool.num_free + len(self._tree.idle)

    @property
    def num_swappable(self) -> int:
        """Pages for which there is room on the host."""
        used = sum(swapped.num_pages for swapped in self._swapped)
        return self._swap_bytes // self._record_bytes - used if self._record_bytes else 0

    # Prompts.

    def lookup(self, tokens: np.ndarray, salt: str = "") -> Cached:
        """What is cached of a prompt, at most all tokens but the last (whose logits are wanted). Changes nothing."""
        if not self.prefix_cache:
            return Cached(0, NO_PAGES, 0)
        pages, tail = self._tree.match(np.asarray(tokens, np.int32)[:-1], salt)
        found = len(pages) * self.page_tokens + (tail[1] if tail else 0)
        return Cached(found, np.array(pages, np.int32), sum(page in self._tree.idle for page in pages), tail)

    def acquire(self, tokens: np.ndarray, salt: str, new_pages: int) -> Acquired:
        """The pages that are cached of a prompt, a copy of the partial one (`Cached.tail`), and `new_pages` more, in order.

        With c = lookup(tokens, salt), this takes c.evictable + (c.tail is not None) + new_pages of `num_free`. PoolError
        where there are fewer. Where all are needed, the partial page is not copied but computed again, on as many pages.
        """
        cached = self.lookup(tokens, salt)
        tail, found = cached.tail, cached.tokens
        extra = new_pages + (tail is not None)
        room = self.num_free - cached.evictable
        if extra > room:
            raise self._too_few(extra, room)
        if tail and tail[0] in self._tree.idle and extra == room:
            found -= tail[1]  # the page to be copied is itself the last that can be had
            tail = None
        source = np.array([tail[0]] if tail else [], np.int32)
        self._retain(cached.pages)
        self._retain(source)  # eviction must not take it before it is copied
        new = self.allocate(extra)
        try:
            if tail:
                self._store.copy_pages(source, new[:1])
        except BaseException:
            self.release(np.concatenate((cached.pages, new)))
            raise
        finally:
            self.release(source)
        self.stats.queries += 1
        self.stats.query_tokens += len(tokens)
        self.stats.hit_tokens += found
        return Acquired(found, np.concatenate((cached.pages, new)))

    def publish(self, tokens: np.ndarray, pages: np.ndarray, salt: str, computed: int) -> None:
        """Let others find the full pages of the first `computed` tokens, which stand in `pages`.

        A page whose content is in the tree under another number stays private. Cheap to repeat as a request grows.
        """
        if not self.prefix_cache:
            return
        if not 0 <= computed <= len(tokens):
            raise ValueError(f"{computed} tokens are computed, the request has {len(tokens)}")
        new = self._tree.insert(np.asarray(tokens, np.int32)[:computed], pages, salt)
        self._pool.retain(new)

    # Pages.

    def allocate(self, count: int) -> np.ndarray:
        """`count` pages (int32) of the caller's own, evicting cached ones if need be. PoolError where there are fewer."""
        short = count - self._pool.num_free
        if short > len(self._tree.idle):
            raise self._too_few(count, self.num_free)
        if short > 0:
            evicted = self._tree.evict(short)
            self._pool.release(evicted)
            self.stats.evictions += len(evicted)
        return self._pool.allocate(count)

    def release(self, pages: Sequence[int] | np.ndarray) -> None:
        """Give pages back. What is in the prefix tree stays there until its place is needed."""
        given = _held(pages)
        self._pool.release(given)
        self._tree.rest(given[self._pool.counts(given) == 1].tolist())

    def release_before(self, pages: np.ndarray, first_needed_page: int) -> int:
        """Give back the first pages of a table, for models whose layers all have sliding windows; returns how many.

        They become HOLEs in `pages`, in place, so nothing is given back twice. Plans never read what no row can see.
        """
        gone = pages[: max(0, first_needed_page)]
        count = int((gone != HOLE).sum())
        if count:
            self.release(gone)
            gone[:] = HOLE
        return count

    def fork(self, pages: np.ndarray, computed: int) -> np.ndarray:
        """A second table (int32) for the first `computed` tokens of one: full pages are shared, a partial one is copied.

        PoolError where no page is left for the copy.
        """
        full, rest = divmod(computed, self.page_tokens)
        if computed < 0 or full + bool(rest) > len(pages):
            raise ValueError(f"{computed} tokens are not in {len(pages)} pages of {self.page_tokens}")
        shared = np.array(pages[:full], np.int32)
        copied = self.allocate(int(bool(rest)))
        try:
            if rest:
                self._store.copy_pages(np.array(pages[full : full + 1], np.int32), copied)
        except BaseException:
            self.release(copied)
            raise
        self._retain(_held(shared))
        return np.concatenate((shared, copied))

    # Swapping.

    def swap_out(self, pages: Sequence[int] | np.ndarray) -> Swapped:
        """Save pages on the host and give them back. PoolError where `swap_bytes` has no room for them."""
        table = np.asarray(pages, np.int32)
        given = _held(table)
        if len(given) > self.num_swappable:
            raise PoolError(
                f"{len(given)} pages are to be swapped out, the swap space of {size_text(self._swap_bytes)} has room"
                f" for {max(0, self.num_swappable)}",
                fix="give more swap space, or preempt by recomputing",
            )
        swapped = Swapped(table != HOLE, self._store.save_pages(given))
        self.release(given)
        self._swapped.append(swapped)
        self.stats.swapped_out += len(given)
        return swapped

    def swap_in(self, swapped: Swapped) -> np.ndarray:
        """The table (int32) of swapped pages, on new pages with their contents. PoolError where there are too few."""
        saved = self._saved(swapped)
        new = self.allocate(swapped.num_pages)
        try:
            self._store.load_pages(new, saved)
        except BaseException:
            self.release(new)
            raise
        self.drop(swapped)
        table = np.full(len(swapped.held), HOLE, np.int32)
        table[swapped.held] = new
        return table

    def drop(self, swapped: Swapped) -> None:
        """Forget swapped pages."""
        self._saved(swapped)
        self._swapped.remove(swapped)
        swapped.saved = None

    def _saved(self, swapped: Swapped) -> np.ndarray:
        if swapped.saved is None or swapped not in self._swapped:
            raise ValueError("these pages are not swapped out: they were swapped in or dropped before")
        return swapped.saved

    # All.

    def clear(self) -> None:
        """Forget all cached prefixes and begin the statistics anew. Requests keep their pages."""
        self._pool.release(self._tree.clear())
        self.stats = KVStats()

    def check_integrity(self, owners: Iterable[Sequence[int] | np.ndarray]) -> None:
        """RuntimeError unless every page is free, in the tree, or in a table of `owners`, exactly as often as counted."""
        cached = np.array(self._tree.pages, np.int32)
        self._pool.check_integrity([*map(_held, owners), cached])
        self._tree.check_integrity()
        alone = set(cached[self._pool.counts(cached) == 1].tolist())
        if alone != set(self._tree.idle):
            raise RuntimeError(f"KV cache: pages {sorted(alone ^ set(self._tree.idle))[:8]} are idle, or not, wrongly")
        if any(swapped.saved is None or len(swapped.saved) != swapped.num_pages for swapped in self._swapped):
            raise RuntimeError("KV cache: swapped pages have lost their contents")

    def _retain(self, pages: np.ndarray) -> None:
        self._pool.retain(pages)
        self._tree.take(pages.tolist())

    def _too_few(self, count: int, room: int) -> PoolError:
        return PoolError(
            f"{count} pages are asked for, {room} of {self.num_pages} can be had",
            f"{self._pool.num_free} are free and {len(self._tree.idle)} are cached prefixes that nobody holds",
        )


def _held(pages: Sequence[int] | np.ndarray) -> np.ndarray:
    """The pages of a table without its HOLEs."""
    table = np.asarray(pages, np.int32)
    return table[table != HOLE]
