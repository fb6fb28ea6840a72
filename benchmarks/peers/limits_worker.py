"""The machine's read rate, as a worker of side_by_side.py, so that it is measured between the rounds of the systems."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TVM_BIND_THREADS", "0")

import protocol


class Limits:
    """Reads a buffer on huge pages with as many threads as the systems have."""

    def __init__(self, folder: Path, variant: str, threads: int, context: int) -> None:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        import limits

        from heddle.schedules.target import resolve_target

        limits.use_cores(threads)
        self.limits, self.target = limits, resolve_target("native")
        self.buffer = limits.allocate(0)

    def rate(self, size: int) -> float:
        """GB/s of reading `size` bytes."""
        if self.buffer.size != size:
            self.buffer = self.limits.allocate(size)
        return float(self.limits.read_rate(self.buffer, self.target, rounds=3))


if __name__ == "__main__":
    protocol.main(lambda checkpoint, folder, variant: {}, Limits)
