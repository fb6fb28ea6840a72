"""A store of pages that can be told to fail."""

from __future__ import annotations

import numpy as np

PAGE, PAGES, SWAP_PAGES = 4, 14, 6


class StoreError(OSError):
    """What a failing store raises."""


class Store:
    """Pages of int64; the next call fails after it has done half of its work, if told to."""

    def __init__(self, pages: int = PAGES) -> None:
        self.records = np.full((pages, PAGE), -1, np.int64)
        self.failing = False

    def work(self, pages: np.ndarray, records: np.ndarray) -> None:
        if self.failing:
            self.records[pages[: len(pages) // 2]] = -2
            raise StoreError("the store failed")
        self.records[pages] = records

    def copy_pages(self, source: np.ndarray, destination: np.ndarray) -> None:
        assert not set(source.tolist()) & set(destination.tolist())
        self.work(destination, self.records[source])

    def save_pages(self, pages: np.ndarray) -> np.ndarray:
        self.work(pages[:0], self.records[:0])
        return self.records[pages].view(np.uint8)

    def load_pages(self, pages: np.ndarray, saved: np.ndarray) -> None:
        self.work(pages, saved.view(np.int64))
