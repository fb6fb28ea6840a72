"""Where everything stands in the plan, the one int32 vector that tells the kernels of a step what to do.

A header with four counts, then arrays at offsets that follow from the capacities alone. `PlanLayout` is the one place that
knows these offsets: kernels are compiled with them and the runtime fills the vector by them.
"""

from __future__ import annotations

import dataclasses

PAGE = 16  # tokens in a page of the KV cache: one float32x16 of scores
TILE_ROWS = 32  # rows of one sequence that an attention tile serves together
KV_TILE = 128  # tokens between two updates of the softmax state
KV_SEGMENT = 2048  # tokens that share one softmax state; segments merge in ascending order
TILE_FIELDS = 4  # first row, number of rows, position of the first row, sequence
HEADER = 16

# Fields of the header; the rest of it is 0.
ROWS, ROW_TASKS, TILES, SEQUENCES = range(4)


def _round_up(n: int) -> int:
    return -(-n // 16) * 16


@dataclasses.dataclass(frozen=True)
class PlanLayout:
    """Offsets (in int32 elements) of the arrays of a plan for at most `max_tokens` rows of `max_seqs` sequences in a step.

    slot[max_tokens]: page * 16 + offset where a row's key and value go.
    row_seq[max_tokens]: the sequence of each row.
    row_task[max_tokens]: rows that attention serves one by one.
    tiles[max_tiles, 4]: first row, number of rows (at most TILE_ROWS), position of the first row, sequence.
    page_indptr[max_seqs + 1] and pages[...]: physical pages of all sequences in CSR form.
    """

    max_tokens: int
    max_seqs: int

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.max_seqs < 1:
            raise ValueError(f"a plan needs room for one row and one sequence at least, got {self}")

    @property
    def max_tiles(self) -> int:
        """Tiles that any split of max_tokens rows into max_seqs sequences needs."""
        return self.max_tokens // TILE_ROWS + self.max_seqs

    @property
    def slot(self) -> int:
        return HEADER

    @property
    def row_seq(self) -> int:
        return self.slot + _round_up(self.max_tokens)

    @property
    def row_task(self) -> int:
        return self.row_seq + _round_up(self.max_tokens)

    @property
    def tiles(self) -> int:
        return self.row_task + _round_up(self.max_tokens)

    @property
    def page_indptr(self) -> int:
        return self.tiles + _round_up(self.max_tiles * TILE_FIELDS)

    @property
    def pages(self) -> int:
        return self.page_indptr + _round_up(self.max_seqs + 1)

    def size(self, pages: int) -> int:
        """Length of a plan vector with room for `pages` page table entries in all."""
        return self.pages + pages
