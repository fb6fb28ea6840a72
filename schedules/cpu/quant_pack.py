"""Activations as 8-bit codes, packed for the quantized linear kernels, with a norm on the way where one comes before."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compat import PrimFunc, T, finish, tirx
from ..emit import Buffer, Value, buffer, i64, let, local, otherwise, parallel, prim_func, serial, store, when
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import LANES, Vec, lanes, splat
from .norm import Norm
from .quant_reference import quantize_activations
from .quant_spec import BLOCK, LIMB, WORDS
from .quantize import TINY, largest, magnitude

LEVELS = {"limbs": 127 * LIMB, "int8": 127, "int8-group": 127}  # the code of the largest magnitude
SERIAL = 8192  # elements that one thread packs sooner than it wakes the others


class _Pack:
    """One kernel: its buffers and sizes, and the statements for one row."""

    def __init__(
        self, features: int, activation: str, group: int | None, rows: int, factor: int, norm: Norm | None
    ) -> None:
        self.features, self.rows, self.factor, self.norm = features, rows, factor, norm
        self.limbs, self.levels = 2 if activation == "limbs" else 1, LEVELS[activation]
        self.group = group or features
        self.groups, self.scale_in_groups = features // self.group, activation == "int8-group"
        self.n = tirx.Var("n", "int64") if rows > 1 else T.int64(1)
        tiles = self.tiles = tirx.Var("row_tiles", "int64") if rows > 1 else T.int64(1)
        self.x = buffer("x", (self.n, T.int64(features)), "float32", align=64)
        names = () if norm is None else norm.operands
        self.operands = [buffer(name, (T.int64(features),), "float32", align=64) for name in names]
        blocks, words = T.int64(-(-features // BLOCK)), T.int64(WORDS * self.limbs)
        scales = T.int64(self.groups if self.scale_in_groups else 1)
        sums = T.int64(rows * self.limbs)
        self.codes = buffer("codes", (tiles, blocks, T.int64(rows), words), "int32", align=64)
        self.scales = buffer("scales", (tiles, scales, T.int64(rows)), "float32", align=64)
        self.sums = buffer("sums", (tiles, T.int64(self.groups), sums), "int32", align=64)

    def emit(self) -> PrimFunc:
        """The kernel."""
        rows = self.tiles * self.rows
        with prim_func([self.x, *self.operands, self.codes, self.scales, self.sums]) as made:
            if self.rows == 1:
                self.row(i64(0))
            else:
                few = self.n * self.features <= SERIAL
                with when(few), serial(rows, "i") as i:
                    self.row(i)
                with otherwise(few), parallel(rows, "i") as i:
                    self.row(i)
        return made[0]

    def row(self, i: Value) -> None:
        """Pack row i of the tiles; rows past the last repeat it."""
        row = let("row", T.min(i, self.n - 1))
        tile, m = let("tile", T.truncdiv(i, i64(self.rows))), let("m", T.truncmod(i, i64(self.rows)))
        self.inverse, self.mean = (local(name, (1,), registers=True) for name in ("inverse", "mean"))
        if self.norm is not None:
            self.norm.statistics(self.x, row, i64(0), self.inverse, self.mean, 0)
        if self.scale_in_groups:
            with serial(i64(self.groups), "g") as g:
                start = let("start", g * self.group)
                inverse = self.scale(row, start, self.group, tile, g, m)
                self.encode(row, start, tile, g, m, inverse)
            return
        inverse = self.scale(row, i64(0), self.features, tile, i64(0), m)
        with serial(i64(self.groups), "g") as g:
            self.encode(row, let("start", g * self.group), tile, g, m, inverse)

    def values(self, row: Value, k: Value, n: int = LANES) -> Vec:
        """float32 activations k .. k + n - 1 of a row, normalised."""
        index = lanes(k, n) if n > 1 else k
        x = self.x[row, index]
        if self.norm is None:
            return x
        weight, *bias = (operand[index] for operand in self.operands)
        return self.norm.apply(x, self.inverse[0], self.mean[0], weight, bias[0] if bias else None, n)

    def scale(self, row: Value, start: Value, count: int, tile: Value, g: Value, m: Value) -> Value:
        """Store the scale of `count` activations and give the factor that turns them into codes (0 for zeros and NaN)."""
        tops = local("tops", (LANES,), "int32", registers=True)
        top = local("top", (1,), "int32", registers=True)
        store(tops, lanes(0), splat(T.int32(0)))
        with serial(i64(count // LANES), "c") as c:
            bits = T.reinterpret("int32x16", self.values(row, start + c * LANES))
            store(tops, lanes(0), T.max(tops[lanes(0)], T.bitwise_and(bits, splat(T.int32(0x7FFFFFFF)))))
        store(top, 0, T.call_llvm_pure_intrin("int32", "llvm.vector.reduce.smax", tops[lanes(0)]))
        for j in range(count // LANES * LANES, count):
            store(top, 0, T.max(top[0], magnitude(self.values(row, start + j, 1))))
        peak = let("peak", largest(top[0]))
        store(self.scales, (tile, g, m), peak * T.float32(1 / self.levels))
        return let("inverse", T.Select(peak > T.float32(TINY), T.float32(self.levels) / peak, T.float32(0)))

    def encode(self, row: Value, start: Value, tile: Value, g: Value, m: Value, inverse: Value) -> None:
        """Store the codes of one group and their sums."""
        totals = [local(f"totals{i}", (LANES,), "int32", registers=True) for i in range(self.limbs)]
        for total in totals:
            store(total, lanes(0), splat(T.int32(0)))
        with serial(i64(self.group // LANES), "c") as c:
            k = let("k", start + c * LANES)
            for limb, codes in enumerate(self.coded(self.values(row, k), inverse, LANES)):
                code = let(f"code{limb}", codes)
                store(totals[limb], lanes(0), totals[limb][lanes(0)] + code)
                word = limb * WORDS + T.truncmod(k, i64(BLOCK)) // 4
                packed = T.reinterpret("int32x4", T.cast(code, "int8x16"))
                store(self.codes, (tile, T.truncdiv(k, i64(BLOCK)), m, lanes(word, 4)), packed)
        sums = [local(f"rest{i}", (1,), "int32", registers=True) for i in range(self.limbs)]
        for total, added in zip(sums, totals, strict=True):
            store(total, 0, T.call_llvm_pure_intrin("int32", "llvm.vector.reduce.add", added[lanes(0)]))
        self.rest(row, tile, m, inverse, sums)
        for limb, total in enumerate(sums):
            store(self.sums, (tile, g, m * self.limbs + limb), total[0] * T.int32(self.factor))

    def rest(self, row: Value, tile: Value, m: Value, inverse: Value, sums: list[Buffer]) -> None:
        """The words of a last block that no vector fills; its words past the last k are 0."""
        first = self.group // LANES * LANES
        for k in range(first, -(-self.group // BLOCK) * BLOCK, 4):
            if self.group % BLOCK == 0:
                return
            words: list[Value] = [T.int32(0)] * self.limbs
            for j in range(4 if k < self.group else 0):
                for limb, code in enumerate(self.coded(self.values(row, i64(k + j), 1), inverse, 1)):
                    byte = let("byte", code)
                    store(sums[limb], 0, sums[limb][0] + byte)
                    words[limb] = T.bitwise_or(
                        words[limb], T.shift_left(T.bitwise_and(byte, T.int32(255)), T.int32(8 * j))
                    )
            for limb, word in enumerate(words):
                store(self.codes, (tile, k // BLOCK, m, limb * WORDS + k % BLOCK // 4), word)

    def coded(self, x: Vec, inverse: Value, n: int) -> list[Vec]:
        """int32 codes of n activations, ties to even, for each limb."""

        def every(value: Value) -> Vec:
            return T.broadcast(value, n) if n > 1 else value

        suffix = f"x{n}" if n > 1 else ""
        scaled = T.Select(every(inverse) > every(T.float32(0)), x * every(inverse), every(T.float32(0)))
        near = T.call_llvm_pure_intrin(f"float32{suffix}", "llvm.nearbyint", scaled)
        code = let("code", T.cast(near, f"int32{suffix}"))
        if self.limbs == 1:
            return [code]
        high = let("high", T.shift_right(code + every(T.int32(LIMB // 2)), every(T.int32(7))))
        return [high, code - T.shift_left(high, every(T.int32(7)))]


def pack_activations(
    x: np.ndarray, activation: str, group: int | None, rows: int, factor: int
) -> tuple[np.ndarray, ...]:
    """Codes, scales and sums of x float32 [n, K] as `quant_pack` gives them; the reference of that kernel."""
    n, features = x.shape
    size = group or features
    quantized = quantize_activations(x, activation, size)
    limbs = len(quantized.codes)
    tiled = np.minimum(np.arange(-(-n // rows) * rows), n - 1).reshape(-1, rows)
    padded = np.zeros((limbs, n, -(-features // BLOCK) * BLOCK), np.int8)
    padded[..., :features] = quantized.codes
    words = padded.view(np.int32).reshape(limbs, n, -1, WORDS)[:, tiled]  # [limb, tile, m, block, word]
    codes = words.transpose(1, 3, 2, 0, 4).reshape(len(tiled), -1, rows, limbs * WORDS)
    sums = quantized.codes.reshape(limbs, n, -1, size).sum(-1, dtype=np.int32)[:, tiled]  # [limb, tile, m, group]
    sums = np.int32(factor) * sums.transpose(1, 3, 2, 0).reshape(len(tiled), -1, rows * limbs)
    return tuple(np.ascontiguousarray(a) for a in (codes, quantized.scales[tiled].transpose(0, 2, 1), sums))


def _reference(x: np.ndarray, *operands: np.ndarray, norm: Norm | None, **params: Any) -> tuple[np.ndarray, ...]:
    normal = x if norm is None else norm.reference(x, *operands)
    return pack_activations(normal, *(params[name] for name in ("activation", "group", "rows", "factor")))


def _inputs(rng: np.random.Generator, *, features: int, norm: Norm | None, n: int, **_: Any) -> list[np.ndarray]:
    x = rng.standard_normal((n, features), dtype=np.float32) * np.float32(3)
    return [x, *(rng.standard_normal(features, dtype=np.float32) for _ in (norm.operands if norm else ()))]


def _case(
    features: int, activation: str, group: int | None, rows: int, n: int, factor: int, norm: Norm | None = None
) -> Case:
    names = {"features": features, "activation": activation, "group": group, "rows": rows, "norm": norm}
    names |= {"factor": factor}
    if norm is None:
        return Case(names, {"n": n})
    return Case(names, {"n": n}, Tolerance(0.02, "a float32 norm may round to the neighbouring code"))


@kernel(
    reference=_reference,
    inputs=_inputs,
    cost=lambda *, features, n, **_: Cost(bytes=5 * features * n, flops=0),
    tolerance=Tolerance(0, "codes, scales and sums are the same numbers"),
    cases=[
        _case(96, "int8", 32, 1, 1, -8),
        _case(128, "int8-group", 64, 4, 3, 1),
        _case(52, "int8", None, 8, 9, -128),
        _case(76, "limbs", None, 4, 6, -128),
        _case(256, "limbs", 128, 12, 40, 1),
        _case(96, "int8-group", 32, 12, 100, -8),
        _case(64, "limbs", 32, 4, 6, -8, Norm("rms", 64, 1e-6)),
        _case(76, "int8", None, 4, 5, -8, Norm("layer", 76, 1e-5, bias=True)),
    ],
    num_outputs=3,
)
def quant_pack(
    *,
    features: int,
    activation: str,
    group: int | None,
    rows: int,
    factor: int,
    norm: Norm | None,
    target: TargetProfile,
) -> PrimFunc:
    """x float32 [n, K] (and the norm's operands float32 [K]) -> codes, scales and sums in tiles of `rows` rows.

    `QuantSpec.coding` says how a linear wants it: `activation` is limbs, int8 or int8-group, `group` how many k's have a sum
    (None: all of K), `factor` what sums are multiplied by. Outputs: codes
    int32 [tiles, ceil(K / 32), rows, 8 * limbs], four k's a word, the high limb's 8 words before the low one's; scales
    float32 [tiles, groups or 1, rows]; sums of codes int32 [tiles, groups, rows * limbs]. With `rows` 1, n is 1. Rows
    past the last repeat it. With a norm the rows are normalised first, with the bits of `rms_norm` or `layer_norm`.

    Raises ValueError for an activation format that has no codes, and for a group that does not divide K.
    """
    if activation not in LEVELS:
        raise ValueError(f"activations in {activation!r} are not packed; choose one of {', '.join(LEVELS)}")
    if features % (group or 4):
        raise ValueError(f"groups of {group or 4} do not divide {features} activations; choose a group that does")
    return finish(_Pack(features, activation, group, rows, factor, norm).emit())
