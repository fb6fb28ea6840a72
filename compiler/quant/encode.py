"""Encoding a weight matrix: slices of rows, one after the other, into the packed arrays that kernels read.

Nothing but the slices at work and the packed arrays is held: the matrix itself
may be mapped from a file larger than memory. Slices are independent, so threads and slice sizes change no bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ...runtime.errors import HeddleError
from ...runtime.features import physical_cores
from ...schedules.layouts.quantized import QuantizedMatrix, packed_arrays
from ...schedules.layouts.scheme import WeightFormat
from ...schedules.layouts.tile16 import TILE, tiles
from .search import Candidate, best, candidates, codes, least_squares
from .two_level import two_level

SLICE_VALUES = 1 << 19  # 2 MB as float32: NumPy calls long enough that threads seldom wait for the interpreter


def encode(w: np.ndarray, fmt: WeightFormat, *, search: bool = True) -> QuantizedMatrix:
    """Quantize w float32 [N, K], finite. `search=False` rounds to nearest under the scale of the largest magnitude.

    Raises ValueError where K does not divide, OverflowError where a scale exceeds float16.
    """
    rows, columns = w.shape
    groups, size = fmt.groups(columns), fmt.group_size(columns)
    # A single column would be summed in another order: pad to a tile, and drop the padding at the end.
    padded = np.zeros((max(TILE, rows), columns), np.float32)
    padded[:rows] = w
    t = np.ascontiguousarray(padded.reshape(-1, size).T)
    channels = None
    if fmt.two_level:
        channels, scales, chosen = two_level(t, len(padded), fmt, search)
        channels = channels[:rows]
    else:
        chosen = _float_scales(t, fmt, search)
        scales = chosen[0].astype(np.float16)
    unsigned = codes(t, chosen, fmt)
    unsigned += chosen[1]
    by_row = unsigned.astype(np.uint8).T.reshape(padded.shape)[:rows]
    zeros = None if fmt.symmetric else chosen[1].astype(np.uint8).reshape(-1, groups)[:rows]
    return QuantizedMatrix(fmt, by_row, scales.reshape(-1, groups)[:rows], zeros, channels)


def _float_scales(t: np.ndarray, fmt: WeightFormat, search: bool) -> Candidate:
    """The best scales that float16 holds, and zero points."""
    chosen = best(t, [(_stored(s), z) for s, z in candidates(t, fmt, None if search else 1)], fmt)
    if search:
        chosen = best(t, [chosen, (_stored(least_squares(t, chosen, fmt)), chosen[1])], fmt)
    return chosen


def _stored(scales: np.ndarray) -> np.ndarray:
    """Scales as the kernels will read them."""
    with np.errstate(over="ignore"):
        stored = scales.astype(np.float16).astype(np.float32)
    if not np.isfinite(stored).all():
        raise OverflowError(f"a scale of {np.abs(scales).max():g}")
    return stored


def quantize(
    w: np.ndarray,
    fmt: WeightFormat,
    *,
    parts: int = 1,
    name: str = "weight",
    search: bool = True,
    slice_tiles: int | None = None,
) -> dict[str, np.ndarray]:
    """Quantize w [N, K] of any float type, `parts` equal parts stacked, to the packed arrays of `layouts.quantized`.

    `slice_tiles` tiles of 16 rows are encoded at a time (None: what fits a cache). Raises HeddleError, naming `name` and the
    position, for NaN, infinities and weights too large for float16 scales, and where the shape does not suit the format.
    """
    if w.ndim != 2:
        raise HeddleError(f"{name} cannot be quantized", f"its shape is {w.shape}", "quantize matrices only")
    try:
        specs = packed_arrays(fmt, len(w), w.shape[1], parts)
    except ValueError as error:
        raise HeddleError(f"{name} {w.shape} cannot be quantized to {fmt.bits} bits", str(error)) from error
    out = {key: np.empty(shape, dtype) for key, (shape, dtype) in specs.items()}
    step = TILE * (slice_tiles or max(1, SLICE_VALUES // (TILE * w.shape[1])))
    per_part = len(w) // parts

    def run(job: tuple[int, int]) -> None:
        part, start = job
        first = part * per_part + start
        piece = _finite(w[first : first + min(step, per_part - start)], name, first)
        try:
            packed = encode(piece, fmt, search=search).pack()
        except OverflowError as error:
            raise _refuse(name, piece, first, "is too large", f"{error} exceeds float16") from error
        tile = part * tiles(per_part) + start // TILE
        for key, array in packed.items():
            out[key][tile : tile + len(array)] = array

    with ThreadPoolExecutor(len(physical_cores())) as pool:
        for _ in pool.map(run, [(part, start) for part in range(parts) for start in range(0, per_part, step)]):
            pass
    return out


def _finite(w: np.ndarray, name: str, first: int) -> np.ndarray:
    """A slice as float32, checked; its row 0 is row `first` of the matrix."""
    piece = w.astype(np.float32)
    if not np.isfinite(piece).all():
        raise _refuse(name, np.where(np.isfinite(piece), 0, piece), first, "is not finite", "no scale can represent it")
    return piece


def _refuse(name: str, piece: np.ndarray, first: int, what: str, why: str) -> HeddleError:
    """An error about the largest value of a slice, or its first NaN."""
    row, column = np.unravel_index(np.argmax(np.abs(piece)), piece.shape)
    return HeddleError(
        f"{name}[{first + row}, {column}] {what}: {piece[row, column]:g}",
        why,
        "check the checkpoint (download it again if it should be sound), or leave this matrix unquantized",
    )


def dequantize(arrays: Mapping[str, np.ndarray], fmt: WeightFormat, rows: int, *, parts: int = 1) -> np.ndarray:
    """float32 [rows, K] of packed arrays."""
    return QuantizedMatrix.unpack(fmt, arrays, rows, parts).dequantize()
