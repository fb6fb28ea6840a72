"""What the linear kernels of all row classes share: the shape, the checks, and the epilogue that stores a tile."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from .. import epilogue as epilogues
from ..compat import PrimFunc, T
from ..layouts.tile32 import TILE, tiles
from ..vector import LANES, Vec, lanes

ROWS = ("1", "4", "8", "n")
DTYPES = ("float32", "float16", "bfloat16")
HALVES = TILE // LANES  # vectors in one row of a tile
LINE = 64  # bytes of a cache line
VECTOR = f"float32x{LANES}"


def prefetch(address: Any, level: int = 3) -> Any:
    """Bring the cache line at `address` near: level 3 to L1, 2 to L2. The address may lie outside of any buffer."""
    return T.call_llvm_intrin("void", "llvm.prefetch.p0", address, 0, level, 1)


@dataclasses.dataclass(frozen=True)
class LinearSpec:
    """y = epilogue(x @ w.T) with w [parts * out_features, in_features] in tile32."""

    in_features: int
    out_features: int
    weight_dtype: str
    epilogue: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.in_features < 1 or self.out_features < 1:
            raise ValueError(f"a linear needs at least one channel, got {self.in_features} to {self.out_features}")
        if self.weight_dtype not in DTYPES:
            raise ValueError(f"no linear kernel for {self.weight_dtype} weights; choose one of {', '.join(DTYPES)}")
        epilogues.check(self.epilogue)

    @property
    def parts(self) -> int:
        """Two for kind(gate) * up, where the weight is gate | up."""
        return epilogues.parts(self.epilogue)

    @property
    def tiles(self) -> int:
        """Tiles in one part."""
        return tiles(self.out_features)

    @property
    def weight_shape(self) -> tuple[int, int, int]:
        """Shape of the packed weight."""
        return self.parts * self.tiles, self.in_features, TILE

    @property
    def bias_size(self) -> int:
        """Elements of the padded bias."""
        return self.parts * self.tiles * TILE

    def prune(self, func: PrimFunc) -> PrimFunc:
        """Drop the parameters `bias` and `residual` where the epilogue lacks them."""
        absent = {"bias", "residual"} - set(self.epilogue)
        params = [p for p in func.params if p.name not in absent]
        return PrimFunc(params, func.body, func.ret_type, func.attrs)

    def finished(self, acc: Any, base: Any, bias: Any, tile: Any, half: int) -> Vec:
        """16 finished sums of one row up to the residual. `acc[base + part * 2 + half]` holds the sums."""
        sums = []
        for part in range(self.parts):
            value = acc[base + part * HALVES + half]
            if "bias" in self.epilogue:
                value = value + bias[lanes(((part * self.tiles + tile) * HALVES + half) * LANES)]
            sums.append(value)
        return epilogues.finished(self.epilogue, sums)

    def store(self) -> Callable[..., None]:
        """Statement that finishes one row of one tile: `store(acc, base, bias, residual, y, row, tile)`.

        Columns of a tile that is not full are stored one by one.
        """
        finished, columns = self.finished, self.out_features
        with_residual = "residual" in self.epilogue
        whole = columns % TILE == 0

        @T.inline
        def half_tile(out: Any, residual: Any, y: Any, row: Any, column: Any) -> None:
            if with_residual:
                y[row, lanes(column)] = out[lanes(0)] + residual[row, lanes(column)]
            else:
                y[row, lanes(column)] = out[lanes(0)]

        @T.inline
        def store(acc: Any, base: Any, bias: Any, residual: Any, y: Any, row: Any, tile: Any) -> None:
            out = T.alloc_buffer((LANES,), "float32", scope="global")
            for half in T.unroll(HALVES):
                out[lanes(0)] = finished(acc, base, bias, tile, half)
                if whole:
                    half_tile(out, residual, y, row, (tile * HALVES + half) * LANES)
                else:
                    if (tile * HALVES + half + 1) * LANES <= columns:
                        half_tile(out, residual, y, row, (tile * HALVES + half) * LANES)
                    else:
                        for j in T.serial(T.max(columns - (tile * HALVES + half) * LANES, 0)):
                            if with_residual:
                                y[row, (tile * HALVES + half) * LANES + j] = (
                                    out[j] + residual[row, (tile * HALVES + half) * LANES + j]
                                )
                            else:
                                y[row, (tile * HALVES + half) * LANES + j] = out[j]

        return store
