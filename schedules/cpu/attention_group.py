"""The queries of one attention task, and the register tiles that serve them."""

from __future__ import annotations

import dataclasses

from ..target import TargetProfile


@dataclasses.dataclass(frozen=True)
class Group:
    """Up to `rows` rows with `heads` query heads each, all against one kv head: query r * heads + h is head h of row r.

    `block` queries are in registers at a time, with `pages` pages of scores or `vectors` vectors of values. `prefetch` where
    memory bounds the task.
    """

    rows: int
    heads: int
    block: int
    pages: int
    vectors: int
    prefetch: bool

    @property
    def padded(self) -> int:
        """Queries including those that fill the last register tile."""
        return -(-self.rows * self.heads // self.block) * self.block


def query_group(rows: int, sharing: int, target: TargetProfile) -> Group:
    """The group of `rows` rows times the `sharing` heads of one kv head, with register tiles for the target."""
    registers = target.wide_registers
    most = 8 if registers >= 32 else 4
    size = rows * sharing
    block = -(-size // -(-size // most))
    accumulators = max(n for n in (1, 2, 4, 8) if n == 1 or n * block <= registers * 5 // 8)
    return Group(rows, sharing, block, accumulators, accumulators, prefetch=rows == 1)
