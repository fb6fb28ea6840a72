"""Where everything stands in the plan, the one int32 vector that tells the kernels of a step what to do.

A header with counts, then arrays at offsets that follow from the capacities alone. `PlanLayout` is the one place that knows
these offsets: kernels are compiled with them and plan builders fill the vector by them.
"""

from __future__ import annotations

import dataclasses
import math

PAGE = 16  # tokens in a page of the KV cache: one float32x16 of scores
KV_TILE = 128  # tokens between two updates of the softmax state
KV_SEGMENT = 2048  # tokens that share one softmax state; segments merge in ascending order
ITEM_FIELDS = 3  # row, first segment, end segment
TILE_FIELDS = 4  # start in tile_row, number of rows, first segment, end segment
HEADER = 16
MAX_WORKERS = 256

FAR = 2**31 - 1  # beyond every position and every segment
DIRECT = -(1 << 30)  # in `state`: one task serves the row, its segments merge in registers

ARRAYS = (
    *("slot", "row_seq", "limit", "state", "row_item", "tile_row", "tile", "merge"),
    *("row_work", "tile_work", "tree", "page_indptr", "pages"),
)  # in the order of the vector

# Fields of the header; the rest of it is 0.
ROWS, SEQUENCES, ROW_ITEMS, TILES, MERGES, WORKERS = range(6)


def _round_up(n: int) -> int:
    return -(-n // 16) * 16


def heads_per_kv_head(heads: int, kv_heads: int) -> int:
    """Query heads of one kv head; ValueError where they do not divide evenly."""
    if min(heads, kv_heads) < 1 or heads % kv_heads:
        raise ValueError(f"{heads} query heads do not share {kv_heads} kv heads evenly")
    return heads // kv_heads


@dataclasses.dataclass(frozen=True)
class PlanLayout:
    """Offsets (in int32 elements) of the arrays of a plan for at most `max_tokens` rows of `max_seqs` sequences in a step.

    slot[max_tokens]: page * 16 + offset where a row's key and value go.
    row_seq[max_tokens]: the sequence of each row.
    limit[max_tokens]: the last position that a row sees (its own in causal attention).
    state[max_tokens]: number of the state of the row's segment 0, or DIRECT.
    row_item[max_row_items, 3]: work of one row each: row, first segment, end segment.
    tile_row[2 * max_tokens]: the rows of all tiles, tile after tile.
    tile[max_tiles, 4]: work of several rows over the same pages: start in tile_row, rows (at most tile_rows), segments.
    merge[max_tokens]: rows whose states are merged.
    row_work, tile_work[MAX_WORKERS + 1]: bounds of the units (item or tile, times kv_heads) that each worker serves.
    tree[max_tokens, 1 + tree_words]: where the tree of a row begins, and the tree's nodes that the row sees, as bits.
    page_indptr[max_seqs + 1] and pages[...]: physical pages of all sequences in CSR form.
    """

    max_tokens: int
    max_seqs: int
    kv_heads: int = 1
    tile_rows: int = 32
    tree_words: int = 0

    def __post_init__(self) -> None:
        if min(self.max_tokens, self.max_seqs, self.kv_heads, self.tile_rows) < 1 or self.tree_words < 0:
            raise ValueError(f"a plan needs room for one row, one sequence and one kv head at least, got {self}")

    @classmethod
    def of(cls, max_tokens: int, max_seqs: int, *, heads: int, kv_heads: int, tree_words: int = 0) -> PlanLayout:
        """The layout of a model: tiles have 32 queries of a kv head or more, in whole register tiles of 8."""
        sharing = heads_per_kv_head(heads, kv_heads)
        step = 8 // math.gcd(sharing, 8)
        return cls(max_tokens, max_seqs, kv_heads, step * max(1, -(-32 // (step * sharing))), tree_words)

    @property
    def max_states(self) -> int:
        """States of segments that stand in memory at a time; work is split no further."""
        return 64 + 8 * self.max_seqs

    @property
    def max_row_items(self) -> int:
        return self.max_tokens + self.max_states

    @property
    def max_tiles(self) -> int:
        """Tiles that any split of max_tokens rows into max_seqs sequences needs, once for prefixes and once for the rest."""
        return 2 * (self.max_tokens // self.tile_rows + self.max_seqs)

    @property
    def slot(self) -> int:
        return HEADER

    @property
    def row_seq(self) -> int:
        return self.slot + _round_up(self.max_tokens)

    @property
    def limit(self) -> int:
        return self.row_seq + _round_up(self.max_tokens)

    @property
    def state(self) -> int:
        return self.limit + _round_up(self.max_tokens)

    @property
    def row_item(self) -> int:
        return self.state + _round_up(self.max_tokens)

    @property
    def tile_row(self) -> int:
        return self.row_item + _round_up(self.max_row_items * ITEM_FIELDS)

    @property
    def tile(self) -> int:
        return self.tile_row + _round_up(2 * self.max_tokens)

    @property
    def merge(self) -> int:
        return self.tile + _round_up(self.max_tiles * TILE_FIELDS)

    @property
    def row_work(self) -> int:
        return self.merge + _round_up(self.max_tokens)

    @property
    def tile_work(self) -> int:
        return self.row_work + _round_up(MAX_WORKERS + 1)

    @property
    def tree(self) -> int:
        return self.tile_work + _round_up(MAX_WORKERS + 1)

    @property
    def tree_fields(self) -> int:
        return 1 + self.tree_words if self.tree_words else 0

    @property
    def page_indptr(self) -> int:
        return self.tree + _round_up(self.max_tokens * self.tree_fields)

    @property
    def pages(self) -> int:
        return self.page_indptr + _round_up(self.max_seqs + 1)

    def size(self, pages: int) -> int:
        """Length of a plan vector with room for `pages` page table entries in all."""
        return self.pages + pages
