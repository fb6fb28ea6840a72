"""The register tile of quant_tiles.py on targets that multiply 2 x 8 by 8 x 2 bytes: pairs of rows by pairs of channels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from ..emit import Buffer, Value, let, store
from ..matrix_dot import apart, interleaved, matrix_dots, row_pair
from ..vector import Vec, lanes
from .quant_spec import WORDS
from .quant_tiles_registers import RegisterTile

LOADED = 4  # words of a row that are loaded together


class MatrixTile(RegisterTile):
    """Sums are interleaved while products are added, and row after row before and after (`schedules.matrix_dot`)."""

    def begin(self, sums: Sequence[Buffer]) -> None:
        """See RegisterTile."""
        self._rearrange(sums, interleaved)

    def end(self, sums: Sequence[Buffer]) -> None:
        """See RegisterTile."""
        self._rearrange(sums, apart)

    def dots(self, sums: Sequence[Buffer], first: Value, step: Value) -> None:
        """See RegisterTile."""
        self.fetch(first, step)
        for word in range(0, WORDS, LOADED):
            rows = [(pair, self._rows(first + step, pair, word)) for pair in self._pairs()]
            for half, (array, (column, tile)) in itertools.product(range(2), zip(sums, self.columns, strict=True)):
                codes = [self.weights.word(column, tile, step, word + 2 * half + i) for i in range(2)]
                for (pair, operands), (at, eight) in itertools.product(rows, enumerate(codes)):
                    store(array, pair[at], matrix_dots(array[pair[at]], eight, operands[half]))

    def _rows(self, block: Value, pair: tuple[int, int], word: int) -> tuple[Vec, Vec]:
        limbs, x = self.spec.limbs, self.b["x"]
        a, b = (
            let("row", x[self.row_tile, block, self.m0 + at // limbs, lanes(at % limbs * WORDS + word, LOADED)])
            for at in pair
        )
        return row_pair(a, b)

    def _pairs(self) -> Iterator[tuple[int, int]]:
        """The places of two rows' sums of one limb."""
        limbs = self.spec.limbs
        for m, limb in itertools.product(range(0, self.shape.rows, 2), range(limbs)):
            yield m * limbs + limb, (m + 1) * limbs + limb

    def _rearrange(self, sums: Sequence[Buffer], how: Callable[[Vec, Vec], tuple[Vec, Vec]]) -> None:
        for array, (a, b) in itertools.product(sums, self._pairs()):
            values = how(let("a", array[a]), let("b", array[b]))
            store(array, a, values[0])
            store(array, b, values[1])
