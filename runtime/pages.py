"""The pool of physical pages that hold the KV cache: how many owners each has. Several may share one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from .errors import PoolError


class PagePool:
    """Physical pages 0 to `num_pages` - 1, each free or held by one owner or more.

    It keeps counts only; the memory belongs to the runner. Misuse (releasing a free page) is a ValueError and changes
    nothing.
    """

    def __init__(self, num_pages: int) -> None:
        if num_pages < 1:
            raise PoolError(f"a pool of {num_pages} pages cannot hold a token", "at least 1 page is needed")
        self._counts = np.zeros(num_pages, np.int32)
        # The last freed page is given out first: its memory is the likeliest to be in a cache.
        self._free = list(range(num_pages - 1, -1, -1))

    @property
    def num_pages(self) -> int:
        """Pages in all."""
        return len(self._counts)

    @property
    def num_free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def allocate(self, count: int) -> np.ndarray:
        """`count` free pages (int32), now held once each. PoolError, and no change, where there are fewer."""
        if count < 0:
            raise ValueError(f"cannot allocate {count} pages")
        if count > len(self._free):
            raise PoolError(f"{count} pages are asked for, {len(self._free)} of {self.num_pages} are free")
        start = len(self._free) - count
        pages = np.array(self._free[start:][::-1], np.int32)
        del self._free[start:]
        self._counts[pages] = 1
        return pages

    def counts(self, pages: np.ndarray) -> np.ndarray:
        """How many owners each of `pages` has, int32."""
        return self._counts[pages]

    def retain(self, pages: Sequence[int] | np.ndarray) -> None:
        """One more owner for each of `pages`, which must be held already."""
        pages = self._known(pages)
        if (self._counts[pages] < 1).any():
            raise ValueError(f"pages {pages[self._counts[pages] < 1].tolist()} are free: nobody can share them")
        np.add.at(self._counts, pages, 1)

    def release(self, pages: Sequence[int] | np.ndarray) -> None:
        """One owner less for each of `pages`; those that nobody holds any more are free again."""
        pages = self._known(pages)
        distinct, times = np.unique(pages, return_counts=True)
        if (self._counts[distinct] < times).any():
            wrong = distinct[self._counts[distinct] < times]
            raise ValueError(f"pages {wrong.tolist()} are released more often than they are held")
        self._counts[distinct] -= times.astype(np.int32)
        self._free.extend(distinct[self._counts[distinct] == 0][::-1].tolist())

    def _known(self, pages: Sequence[int] | np.ndarray) -> np.ndarray:
        array = np.asarray(pages, np.int32)
        if ((array < 0) | (array >= self.num_pages)).any():
            raise ValueError(f"pages {array.tolist()} are not all in a pool of {self.num_pages}")
        return array

    def check_integrity(self, owners: Iterable[Sequence[int] | np.ndarray] | None = None) -> None:
        """RuntimeError unless every page is free or held, and, with `owners`, held exactly as often as they say."""
        if sorted(self._free) != np.flatnonzero(self._counts == 0).tolist():
            raise RuntimeError("page pool: the free list and the counts disagree")
        if owners is None:
            return
        held = Counter(int(page) for pages in owners for page in pages)
        counted = {int(page): int(self._counts[page]) for page in np.flatnonzero(self._counts)}
        if held != counted:
            wrong = sorted(page for page in held.keys() | counted.keys() if held[page] != counted.get(page, 0))
            raise RuntimeError(f"page pool: pages {wrong[:8]} have other counts than owners")
