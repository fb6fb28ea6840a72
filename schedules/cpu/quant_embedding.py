"""Token embedding from a quantized table: the codes of a row, gathered out of its tile of 16 channels, times their scales."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compat import PrimFunc, T, finish, tirx
from ..emit import Buffer, Value, buffer, i64, let, parallel, prim_func, serial, store
from ..layouts.quantized import QuantizedMatrix, packed_arrays
from ..layouts.scheme import BLOCK, weight_format
from ..layouts.tile16 import TILE
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import lanes
from .quant_linear_rows import random_matrix

WORD = 4  # codes of one channel that lie side by side


def _inputs(rng: np.random.Generator, *, features: int, format: str, vocab: int, n: int, **_: Any) -> list[np.ndarray]:
    ids = rng.integers(0, vocab, n, dtype=np.int32)
    ids[0], ids[-1] = vocab - 1, 0
    return [ids, *random_matrix(rng, weight_format(format), vocab, features).pack().values()]


def _reference(ids: np.ndarray, *arrays: np.ndarray, features: int, format: str) -> tuple[np.ndarray, ...]:
    fmt, rows = weight_format(format), TILE * len(arrays[0])
    named = dict(zip(packed_arrays(fmt, rows, features), arrays, strict=True))
    return (QuantizedMatrix.unpack(fmt, named, rows).dequantize()[ids],)


def _cost(*, features: int, format: str, n: int, **_: Any) -> Cost:
    row = features * weight_format(format).bits_per_weight(features) / 8
    return Cost(bytes=n * (4 + round(row) + 4 * features), flops=2 * n * features)


SHAPES = [
    # features, format, rows of the table, ids
    (52, "w8-pc", 70, 5),
    (4, "w8-pc-asym", 16, 2),
    (128, "w8-g32", 33, 7),
    (192, "w8-g64-asym", 17, 3),
    (96, "w4-pc", 1, 2),
    (32, "w4-pc-asym", 48, 6),
    (96, "w4-g32", 70, 40),
    (256, "w4-g128-asym", 31, 4),
    (96, "w4-g32-min", 70, 5),
    (128, "w8-g64-min", 19, 3),
    (128, "w4-g64-2l", 50, 1),
    (96, "w4-g32-2l-asym", 64, 9),
    (64, "w8a8", 20, 3),
]


@kernel(
    reference=_reference,
    inputs=_inputs,
    cost=_cost,
    tolerance=Tolerance(0.0, "(code - zero) * scale, then the channel's scale or the minimum, each rounded once"),
    cases=[Case({"features": k, "format": format}, {"vocab": vocab, "n": n}) for k, format, vocab, n in SHAPES],
)
def quant_embedding(*, features: int, format: str, target: TargetProfile) -> PrimFunc:
    """ids int32 [n] in [0, V), then the packed arrays of a table [V, features] -> float32 [n, features].

    `format` is the name of a weight format (`w4-g32-2l`) or of a scheme, of which only the weight format counts. The
    arrays are those of `QuantizedMatrix.pack`, in its order; the values are those of its `dequantize`.

    Raises ValueError for a format that does not exist, and for features that its groups or blocks do not divide.
    """
    fmt = weight_format(format)
    groups, size, block = fmt.groups(features), fmt.group_size(features), BLOCK[fmt.bits]
    n, tiles = tirx.Var("n", "int64"), tirx.Var("tiles", "int64")
    ids = buffer("ids", [n], "int32")
    b: dict[str, Buffer] = {
        name: buffer(
            name, [tiles, *map(T.int64, shape[1:])], dtype.name, align=64 if name in ("codes", "channels") else 16
        )
        for name, (shape, dtype) in packed_arrays(fmt, TILE, features).items()
    }
    y = buffer("y", [n, T.int64(features)], "float32", align=64)

    def word(tile: Value, at: Value, line: int, lane: Value) -> Value:
        """Bytes of one channel, uint8x4; blocks of 4 bits have several lines."""
        index = (at, T.int64(line)) if fmt.bits == 4 else (at,)
        return b["codes"][(tile, *index, lanes(lane * WORD, WORD))]

    with prim_func([ids, *b.values(), y]) as made, parallel(n, "i") as i:
        row = let("row", i64(ids[i]))
        tile, lane = let("tile", T.truncdiv(row, i64(TILE))), let("lane", T.truncmod(row, i64(TILE)))
        with serial(i64(groups), "g") as g:
            zero = let("zero", T.int32(fmt.zero) if fmt.symmetric else T.cast(b["zeros"][tile, g, lane], "int32"))
            scale = let("scale", T.cast(b["scales"][tile, g, lane], "float32"))
            with serial(i64(size // block), "c") as c:
                at = let("at", g * (size // block) + c)
                for k, codes in _codes(fmt.bits, [word(tile, at, line, lane) for line in range(block // 8 or 1)]):
                    centred = T.cast(codes - T.broadcast(zero, WORD), "float32x4")
                    value = centred * T.broadcast(scale, WORD)
                    if fmt.minima:  # the product is exact, so that it may be contracted with this sum or not
                        value = value + T.broadcast(T.cast(b["mins"][tile, g, lane], "float32"), WORD)
                    if fmt.two_level:
                        value = value * T.broadcast(b["channels"][tile, lane], WORD)
                    store(y, (i, lanes(at * block + k, WORD)), value)
    return finish(made[0])


def _codes(bits: int, words: list[Value]) -> list[tuple[int, Value]]:
    """The codes of a block as int32x4, each with the k of its first within the block."""
    wide = [let(f"word{line}", T.cast(word, "int32x4")) for line, word in enumerate(words)]
    if bits == 8:
        return [(0, wide[0])]
    low, four = T.broadcast(T.int32(15), WORD), T.broadcast(T.int32(4), WORD)
    halves = [T.bitwise_and(word, low) for word in wide] + [T.shift_right(word, four) for word in wide]
    return [(WORD * k, codes) for k, codes in enumerate(halves)]
