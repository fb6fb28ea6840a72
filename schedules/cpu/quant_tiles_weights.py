"""How weights reach the register tiles of quant_tiles.py: codes as they lie in memory or expanded from int4, and their scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..compat import T
from ..dot import BYTES, NEON, bias, signed_codes
from ..emit import Buffer, Value, evaluate, i64, let, local, serial, store
from ..matrix_dot import interleaved, multiplies_matrices
from ..target import TargetProfile
from ..vector import LANES, Vec, lanes, splat
from .linear_spec import VECTOR, prefetch
from .quant_spec import BLOCK, SHIFT, WORDS, QuantSpec, block_words

INTEGERS = f"int32x{LANES}"


class Weights:
    """int8 codes, read where they lie. Scales and minima of groups are widened into buffers of the task."""

    def __init__(
        self, spec: QuantSpec, b: Mapping[str, Buffer], width: int, blocks: int, target: TargetProfile, bits: int = 0
    ) -> None:
        self.spec, self.b = spec, b
        self.bits = bits or spec.weight.bits  # of the codes that `word` gives
        self.less = bias(self.bits, target)  # what has to be taken off them
        self.left = self.less  # what of that is left to the dot products
        self.group_blocks = max(spec.group // BLOCK, 1)
        if not spec.integer:
            self.scales = local("wide_scales", (blocks // self.group_blocks, width), VECTOR)
        if spec.weight.minima:
            self.mins = local("wide_mins", (blocks // self.group_blocks, width), VECTOR)

    def take(self, column: int, tile: Value, first: Value, blocks: Value) -> None:
        """Get `blocks` blocks of 32 k's ready, from the block `first`, for the column tile `column` of the task."""
        self.first = first
        if not self.spec.integer:
            group = let("group", T.truncdiv(first, i64(self.group_blocks)))
            with serial(T.truncdiv(blocks, i64(self.group_blocks)), "g") as g:
                store(self.scales, (g, column), self.spec.scales(self.b, tile, group + g))
                if self.spec.weight.minima:
                    store(self.mins, (g, column), self.spec.mins(self.b, tile, group + g))

    def scale(self, column: int, group: Value) -> Vec:
        """float32 scales of a group, counted from the last `take`."""
        return self.scales[group, column]

    def least(self, column: int, group: Value) -> Vec:
        """float32 minima of a group, likewise."""
        return self.mins[group, column]

    def word(self, column: int, tile: Value, block: Value, word: Value) -> Vec:
        """Four k's of 16 channels: the operand of one dot4. `block` counts from the last `take`."""
        return self.packed_word(column, tile, block, word)

    def packed_word(self, column: int, tile: Value, block: Value, word: Value) -> Vec:
        """The same from the packed codes of 8 bits."""
        return T.reinterpret(INTEGERS, self.b["codes"][tile, (self.first + block) * WORDS + word, lanes(0, 64)])

    def fetch(self, tile: Value, block: Value, line: Value) -> None:
        """Bring the cache line number `line` from the start of a block of 32 k's into L2. It may lie past the end of the tile."""
        codes = self.b["codes"]
        if self.spec.weight.bits == 8:
            address = codes[tile, block * WORDS + line, 0]
        else:
            address = codes[tile, block + T.truncdiv(line, i64(4)), T.truncmod(line, i64(4)), 0]
        evaluate(prefetch(T.address_of(address), 2))

    def starts(self, row_tile: Value) -> Callable[[Value, Value], Vec]:
        """What int32 sums over all of K begin with, as a function of a row's place in `sums` and of a tile."""
        return lambda at, tile: self.spec.start(self.b, tile, i64(0), self.b["sums"][row_tile, 0, at], self.less)


class ExpandedCodes(Weights):
    """Codes in a buffer of the task, one byte each, as the target multiplies them.

    They stay as they are, or become signed, or two words of a channel lie side by side for products of matrices.
    """

    def __init__(
        self, spec: QuantSpec, b: Mapping[str, Buffer], width: int, blocks: int, target: TargetProfile, bits: int = 0
    ) -> None:
        super().__init__(spec, b, width, blocks, target, bits)
        self.matrix, self.left = multiplies_matrices(target), 0
        self.bytes = local("wide", (blocks * WORDS, width), INTEGERS)

    def take(self, column: int, tile: Value, first: Value, blocks: Value) -> None:
        """See Weights."""
        super().take(column, tile, first, blocks)
        with serial(blocks, "b") as b:
            words = self.expanded(tile, let("at", first + b))
            if self.less:
                words = [signed_codes(word) for word in words]
            if self.matrix:
                pairs = [interleaved(*words[i : i + 2]) for i in range(0, WORDS, 2)]
                words = [word for pair in pairs for word in pair]
            for i, word in enumerate(words):
                store(self.bytes, (b * WORDS + i, column), word)

    def expanded(self, tile: Value, block: Value) -> list[Vec]:
        """The words of one block."""
        return block_words(self.b["codes"], self.spec.weight.bits, tile, block)

    def word(self, column: int, tile: Value, block: Value, word: Value) -> Vec:
        """See Weights."""
        return self.bytes[block * WORDS + word, column]


class ScaledCodes(ExpandedCodes):
    """int4 codes times their integer group scale, so that one int32 sum runs over all of K.

    A byte holds (code - 8) * scale + 128, which is in 8..233, or with zero points code * scale, at most 225. No byte carries into
    the next, so the arithmetic is on int32 lanes.
    """

    def __init__(
        self, spec: QuantSpec, b: Mapping[str, Buffer], width: int, blocks: int, target: TargetProfile
    ) -> None:
        super().__init__(spec, b, width, blocks, target, bits=8)

    def expanded(self, tile: Value, block: Value) -> list[Vec]:
        """See ExpandedCodes."""
        group = T.truncdiv(block, i64(self.group_blocks))
        scale = let("factor", self.spec.integer_scales(self.b, tile, group))
        words = [word * scale for word in super().expanded(tile, block)]
        if not self.spec.weight.symmetric:
            return words
        offset = let(
            "offset", splat(T.int32(SHIFT * BYTES - 2**32)) - scale * splat(T.int32(self.spec.weight.zero * BYTES))
        )
        return [word + offset for word in words]

    def starts(self, row_tile: Value) -> Callable[[Value, Value], Vec]:
        """See Weights."""
        if self.spec.weight.symmetric:
            return super().starts(row_tile)
        sums, groups = self.b["sums"], i64(self.spec.groups)

        def start(at: Value, tile: Value) -> Vec:
            acc = local("start", (1,), INTEGERS)
            store(acc, 0, splat(T.int32(0)))
            with serial(groups, "g") as g:
                scale = self.spec.integer_scales(self.b, tile, g)
                x_sum = sums[row_tile, g, at]
                begin = self.spec.start(self.b, tile, g, x_sum, 0) * scale
                store(acc, 0, acc[0] + begin + splat(x_sum * T.int32(self.less)))
            return acc[0]

        return start


def weights_of(spec: QuantSpec, b: Mapping[str, Buffer], width: int, blocks: int, target: TargetProfile) -> Weights:
    """The weights of a task of `width` column tiles that takes at most `blocks` blocks of 32 k's at a time."""
    if spec.weight.bits == 8 and target.dots not in NEON:
        return Weights(spec, b, width, blocks, target)
    return (ScaledCodes if spec.weight.two_level else ExpandedCodes)(spec, b, width, blocks, target)
