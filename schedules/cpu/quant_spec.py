"""What all quantized linear kernels share: shapes, buffers, checks, and the expressions that decide the bits.

Per group of k, ascending: `acc = fma(float(exact int32 sum), scale, acc)`, and with minima `acc = fma(float(sum of the row's
codes), minimum, acc)`; then once acc * scale of the row, and the epilogue (`schedules.epilogue`). `quant_reference` has all of
it in NumPy. A kernel for few rows and one for many use these same functions, so a row has the same bits in both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from .. import epilogue as epilogues
from ..compat import T
from ..emit import Buffer, Value, buffer, local, serial, store, when
from ..layouts.quantized import packed_arrays
from ..layouts.rows import ROW_TILE
from ..layouts.scheme import ACTIVATIONS, MAX_GROUP_SCALE, WeightFormat
from ..vector import LANES, Vec, const, fma, lanes, splat

BLOCK = 32  # k's of one block: 8 words of 4 bytes, both nibbles of 4 cache lines of int4
WORDS = 8
SHIFT = 128  # added to codes of two levels times their integer scales, so that they are unsigned bytes
LIMB = 128  # x = scale * (128 * high limb + low limb)


@dataclasses.dataclass(frozen=True)
class QuantSpec:
    """y = epilogue(x @ dequantized(w).T) with w [parts * out_features, in_features] as packed codes."""

    in_features: int
    out_features: int
    weight: WeightFormat
    activation: str
    epilogue: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.in_features < 1 or self.out_features < 1:
            raise ValueError(f"a linear needs at least one channel, got {self.in_features} to {self.out_features}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"no quantized linear with {self.activation!r} activations; choose one of {', '.join(ACTIVATIONS)}"
            )
        epilogues.check(self.epilogue)
        self.weight.groups(self.in_features)
        if self.integer and self.in_features > self.room:
            raise ValueError(
                f"int32 sums over {self.in_features} columns could overflow, {self.room} are the most; take a format with "
                "one level of scales in groups"
            )
        if self.activation == "int8-group" and (self.weight.two_level or self.weight.group is None):
            raise ValueError(
                "activations in groups need weights in groups with one level of scales; take int8 activations per token"
            )

    @property
    def parts(self) -> int:
        """Two for kind(gate) * up, where the weight is gate | up."""
        return epilogues.parts(self.epilogue)

    @property
    def tiles(self) -> int:
        """Tiles of 16 output channels in one part."""
        return -(-self.out_features // LANES)

    @property
    def group(self) -> int:
        """k's that share a scale: all of them where the format is per channel."""
        return self.weight.group_size(self.in_features)

    @property
    def groups(self) -> int:
        """Groups of k."""
        return self.weight.groups(self.in_features)

    @property
    def blocks(self) -> int:
        """Blocks of 32 k's, the last of which may not be full."""
        return -(-self.in_features // BLOCK)

    @property
    def limbs(self) -> int:
        """int8 codes of one activation: none for float32."""
        return {"f32": 0, "limbs": 2}.get(self.activation, 1)

    @property
    def integer(self) -> bool:
        """Whether one int32 sum runs over all of K: scales per channel, or two levels of them."""
        return self.limbs > 0 and (self.weight.two_level or self.groups == 1) and not self.weight.minima

    @property
    def room(self) -> int:
        """Columns whose products with codes of +-127 surely fit one int32 sum. Codes that are kept may be 0 (-128)."""
        zero, high = self.weight.zero, self.weight.codes[1]
        largest = max(zero, high - zero) if self.weight.symmetric else high
        return (2**31 - 1) // (127 * largest * (MAX_GROUP_SCALE if self.weight.two_level else 1))

    @property
    def row_scales(self) -> int:
        """Scales of one row of activations."""
        return self.groups if self.activation == "int8-group" else 1

    @property
    def token_scales(self) -> bool:
        """Whether a row of activations has one scale, which multiplies its finished sums."""
        return self.limbs > 0 and self.row_scales == 1

    def weight_buffers(self) -> dict[str, Buffer]:
        """Parameters of the weight, as `quantized.packed_arrays` lists them: `codes`, `scales`, `zeros`, `mins`, `channels`."""
        arrays = packed_arrays(self.weight, self.parts * self.out_features, self.in_features, self.parts)
        return {
            name: buffer(name, _int64(*shape), dtype.name, align=64 if name in ("codes", "channels") else 16)
            for name, (shape, dtype) in arrays.items()
        }

    def coding(self, tile_rows: int) -> dict[str, Any]:
        """How `quant_pack` codes activations for the kernel that takes tiles of `tile_rows` rows: activation, group, factor.

        Its sums are what int32 sums begin with: -zero * (sum of the row's codes), where the format has one zero; with zero
        points and minima they are the sums of the row's codes. Many rows are multiplied with codes of two levels as bytes that
        have their group scale inside, and one zero for all of K.
        """
        if not self.weight.symmetric or self.weight.minima:
            return {"activation": self.activation, "group": self.weight.group, "factor": 1}
        if self.weight.two_level and tile_rows == ROW_TILE:
            return {"activation": self.activation, "group": None, "factor": -SHIFT}
        return {"activation": self.activation, "group": self.weight.group, "factor": -self.weight.zero}

    def activation_buffers(self, n: Value, row_tiles: Value, tile_rows: int) -> dict[str, Buffer]:
        """Parameters of the activations: `x` float32 [n, K], or what `quant_pack` made for tiles of `tile_rows` rows."""
        if not self.limbs:
            return {"x": buffer("x", [n, T.int64(self.in_features)], "float32", align=64)}
        codes = [row_tiles, *_int64(self.blocks, tile_rows, WORDS * self.limbs)]
        groups = 1 if self.coding(tile_rows)["group"] is None else self.groups
        return {
            "x": buffer("x", codes, "int32", align=64),
            "xs": buffer("xs", [row_tiles, *_int64(self.row_scales, tile_rows)], "float32", align=64),
            "sums": buffer("sums", [row_tiles, *_int64(groups, tile_rows * self.limbs)], "int32", align=64),
        }

    def epilogue_buffers(self, n: Value) -> dict[str, Buffer]:
        """Parameters of the epilogue: `bias` float32 [parts * tiles * 16], `residual` float32 [n, N]."""
        made = {}
        if "bias" in self.epilogue:
            made["bias"] = buffer("bias", _int64(self.parts * self.tiles * LANES), "float32", align=64)
        if "residual" in self.epilogue:
            made["residual"] = buffer("residual", [n, T.int64(self.out_features)], "float32", align=64)
        return made

    def output_buffer(self, n: Value) -> dict[str, Buffer]:
        """The parameter `y` float32 [n, N]."""
        return {"y": buffer("y", [n, T.int64(self.out_features)], "float32", align=64)}

    def start(self, b: Mapping[str, Buffer], tile: Value, group: Value, x_sum: Value, less: int) -> Vec:
        """What a group's int32 sums begin with: (less - zero) * sum of the row's codes. `tile` counts over both parts.

        Dot products take the weight's codes less `less` (`dot.bias`), which then is the zero of symmetric formats, or 0.
        """
        if self.weight.minima:
            return splat(x_sum * T.int32(less))
        if self.weight.symmetric:
            return splat(T.int32(0) if less else x_sum)  # quant_pack has multiplied
        zeros = T.cast(b["zeros"][tile, group, lanes(0)], "int32x16")
        return (zeros - splat(T.int32(less))) * splat(T.int32(0) - x_sum)

    def scales(self, b: Mapping[str, Buffer], tile: Value, group: Value) -> Vec:
        """float32 scales of a group; of two levels the integer one."""
        if not self.weight.two_level:
            return T.cast(b["scales"][tile, group, lanes(0)], "float32x16")
        return T.cast(self.integer_scales(b, tile, group), "float32x16")

    def mins(self, b: Mapping[str, Buffer], tile: Value, group: Value) -> Vec:
        """float32 minima of a group."""
        return T.cast(b["mins"][tile, group, lanes(0)], "float32x16")

    def integer_scales(self, b: Mapping[str, Buffer], tile: Value, group: Value) -> Vec:
        """int32 scales of a group in a format of two levels."""
        return T.cast(b["scales"][tile, group, lanes(0)], "int32x16")

    def finished(self, b: Mapping[str, Buffer], acc: Vec, x_scale: Value, tile: Value) -> Vec:
        """A part's 16 outputs before the residual: the scale of the row and of the channel, and the bias."""
        scale = splat(x_scale) if self.token_scales else None
        if self.weight.two_level:
            channel = b["channels"][tile, lanes(0)]
            scale = channel if scale is None else channel * scale
        # A product that a sum follows: as an fma with 0 it cannot be contracted with the sum.
        value = acc if scale is None else fma(acc, scale, const(0.0))
        return value + b["bias"][lanes(tile * LANES)] if "bias" in self.epilogue else value

    def store_tile(self, b: Mapping[str, Buffer], sums: Sequence[Vec], x_scale: Value, row: Value, tile: Value) -> None:
        """Finish and store 16 columns of one row. `sums` has one vector for each part; `tile` counts within a part.

        Columns past the last are not stored.
        """
        values = [self.finished(b, acc, x_scale, part * self.tiles + tile) for part, acc in enumerate(sums)]
        value = epilogues.finished(self.epilogue, values)
        column, rest = tile * LANES, self.out_features % LANES
        y, residual = b["y"], b.get("residual")

        def whole() -> None:
            added = value if residual is None else value + residual[row, lanes(column)]
            store(y, (row, lanes(column)), added)

        if not rest:
            whole()
            return
        out = local("out", (LANES,), registers=True)
        store(out, lanes(0), value)
        with when(tile < self.tiles - 1):
            whole()
        with when(tile == self.tiles - 1), serial(rest, "j") as j:
            store(y, (row, column + j), out[j] if residual is None else out[j] + residual[row, column + j])


def joined(sums: Sequence[Vec]) -> Vec:
    """float32 of a group's int32 sums: one limb, or 128 * high + low with one rounding."""
    floats = [T.cast(s, "float32x16") for s in sums]
    return floats[0] if len(floats) == 1 else fma(floats[0], const(float(LIMB)), floats[1])


def block_words(w: Buffer, bits: int, tile: Value, block: Value, words: int = WORDS) -> list[Vec]:
    """The codes of a block as int32x16: word l of lane r holds k = 32 * block + 4 * l .. + 3 of channel r, one byte each."""
    if bits == 8:
        return [T.reinterpret("int32x16", w[tile, block * WORDS + i, lanes(0, 64)]) for i in range(words)]
    lines = [T.reinterpret("int32x16", w[tile, block, i, lanes(0, 64)]) for i in range(BLOCK // 8)]
    low, four = splat(T.int32(0x0F0F0F0F)), T.broadcast(T.uint8(4), 64)
    high = [T.reinterpret("int32x16", T.shift_right(T.reinterpret("uint8x64", v), four)) for v in lines]
    return [T.bitwise_and(v, low) for v in lines] + high


def _int64(*sizes: int) -> list[Value]:
    return [T.int64(size) for size in sizes]
