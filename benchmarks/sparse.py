"""spmm, sddmm and bsr against torch.sparse, SciPy and MKL on the same matrices, in the same run.

    python benchmarks/sparse.py --threads 2

Rounds alternate between ours and each peer; times are medians, ratios medians of the ratios of neighbouring rounds. `uniform` has
32 entries in every row, `power` degrees and columns by a power law. Peers that are not installed are named and left out.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable

if __name__ == "__main__":
    os.environ.setdefault("TVM_BIND_THREADS", "0")

import numpy as np
import report
from limits import allocate, compiled, seconds, tensor, use_cores
from peer import Peer

from heddle.ir_passes.sparse.formats import CSR, to_balanced, to_bsr
from heddle.ir_passes.sparse.kernels.matrix import sddmm, spmm
from heddle.runtime.features import physical_cores
from heddle.schedules.target import TargetProfile

SIDE, DEGREE, BLOCK, BLOCK_SIDE, BLOCK_DENSITY = 20_000, 32, 32, 4096, 0.1
ITEMS_PER_THREAD = 8


@dataclasses.dataclass(frozen=True)
class Result:
    """Median milliseconds, and for each peer its own and the median ratio peer / ours."""

    name: str
    matrix: str
    width: int
    milliseconds: float
    gigaflops: float
    peers: dict[str, tuple[float, float]]


def random_matrix(kind: str, side: int = SIDE, degree: int = DEGREE) -> CSR:
    """`uniform`: `degree` entries drawn in every row; `power`: rows and columns by a power law with exponent 0.8."""
    rng = np.random.default_rng(0)
    if kind == "uniform":
        rows, columns = np.repeat(np.arange(side), degree), rng.integers(0, side, side * degree)
    else:
        weights = np.arange(1, side + 1) ** -0.8
        weights /= weights.sum()
        rows = np.repeat(rng.permutation(side), rng.multinomial(side * degree, weights))
        columns = rng.permutation(side)[rng.choice(side, side * degree, p=weights)]
    key = np.unique(rows.astype(np.int64) * side + columns)
    return CSR.from_coordinates(key // side, key % side, rng.standard_normal(len(key), np.float32), (side, side))


def on_huge_pages(array: np.ndarray) -> np.ndarray:
    """A copy in aligned memory."""
    out = allocate(max(array.nbytes, 64)).view(array.dtype)[: array.size].reshape(array.shape)
    out[...] = array
    return out


def compare(
    name: str,
    matrix: str,
    width: int,
    flops: int,
    ours: Callable[[], object],
    check: Callable[[np.ndarray], float],
    peers: dict[str, str],
    peer: Peer,
    arrays: dict[str, np.ndarray],
    rounds: int,
) -> Result:
    """Alternate rounds of ours and of every peer that runs here; `check` gives the largest error of a peer's result."""
    ready = {}
    for label, case in peers.items():
        result = peer.prepare(case, arrays)
        if isinstance(result, str):
            print(f"  {label} does not run here: {result[:100]}")
        else:
            assert check(result) < 1e-3, f"{label} computes something else"
            ready[label] = case
    repeat = max(1, int(0.02 / max(seconds(ours, 2), 1e-5)))
    own: list[float] = []
    theirs: dict[str, list[float]] = {label: [] for label in ready}
    for _ in range(rounds):
        time.sleep(peer.pause)
        own.append(seconds(ours, repeat))
        for label, case in ready.items():
            theirs[label].append(peer.seconds(case, max(1, repeat // 4)))
    mine = statistics.median(own)
    found = {
        label: (statistics.median(t) * 1e3, statistics.median(b / a for a, b in zip(own, t, strict=True)))
        for label, t in theirs.items()
    }
    return Result(name, matrix, width, mine * 1e3, flops / mine * 1e-9, found)


def measure_spmm(kind: str, width: int, target: TargetProfile, threads: int, peer: Peer, rounds: int) -> Result:
    a, rng = random_matrix(kind), np.random.default_rng(1)
    b = rng.standard_normal((a.shape[1], width), np.float32)
    operand = to_balanced(a, threads * ITEMS_PER_THREAD)
    out = allocate(4 * a.shape[0] * width).view(np.float32).reshape(-1, width)
    kernel = compiled(spmm(format="balanced", width=width, target=target), target)
    args = [*(tensor(on_huge_pages(x)) for x in (*operand.params, b)), tensor(out)]
    kernel(*args)
    arrays = {"indptr": a.indptr, "indices": a.indices, "data": a.data, "shape": np.array(a.shape), "b": b}
    peers = {"torch": "spmm_torch", "scipy": "spmm_scipy", "mkl": "spmm_mkl"}
    return compare(
        "spmm",
        kind,
        width,
        2 * a.nnz * width,
        lambda: kernel(*args),
        lambda r: float(np.abs(r - out).max() / np.abs(out).max()),
        peers,
        peer,
        arrays,
        rounds,
    )


def measure_bsr(width: int, target: TargetProfile, peer: Peer, rounds: int) -> Result:
    rng = np.random.default_rng(1)
    blocks = BLOCK_SIDE // BLOCK
    keep = np.kron(rng.random((blocks, blocks)) < BLOCK_DENSITY, np.ones((BLOCK, BLOCK)))
    operand = to_bsr(CSR.from_dense((keep * rng.standard_normal(keep.shape)).astype(np.float32)), BLOCK)
    b = rng.standard_normal((BLOCK_SIDE, width), np.float32)
    out = allocate(4 * BLOCK_SIDE * width).view(np.float32).reshape(-1, width)
    kernel = compiled(spmm(format="bsr", width=width, block=BLOCK, target=target), target)
    args = [*(tensor(on_huge_pages(x)) for x in (*operand.params, b)), tensor(out)]
    kernel(*args)
    indptr, indices = operand.arrays
    shape = np.array([BLOCK_SIDE, BLOCK_SIDE])
    arrays = {"indptr": indptr, "indices": indices, "data": operand.values, "shape": shape, "b": b}
    return compare(
        f"bsr-{BLOCK}",
        f"{BLOCK_DENSITY:.0%} of {BLOCK_SIDE}^2",
        width,
        2 * operand.values.size * width,
        lambda: kernel(*args),
        lambda r: float(np.abs(r - out).max() / np.abs(out).max()),
        {"torch": "bsr_torch"},
        peer,
        arrays,
        rounds,
    )


def measure_sddmm(kind: str, width: int, target: TargetProfile, threads: int, peer: Peer, rounds: int) -> Result:
    a, rng = random_matrix(kind), np.random.default_rng(1)
    x, z = (rng.standard_normal((side, width), np.float32) for side in a.shape)
    operand = to_balanced(a, threads * ITEMS_PER_THREAD)
    out = allocate(4 * a.nnz).view(np.float32)[: a.nnz]
    kernel = compiled(sddmm(format="balanced", width=width, target=target), target)
    args = [*(tensor(on_huge_pages(v)) for v in (*operand.params, x, z)), tensor(out)]
    kernel(*args)
    arrays = {"indptr": a.indptr, "indices": a.indices, "data": a.data, "shape": np.array(a.shape), "x": x, "z": z}
    dots = np.einsum("ed,ed->e", x[a.rows], z[a.indices])
    assert np.abs(out - dots * a.data).max() < 1e-3 * np.abs(out).max()
    return compare(
        "sddmm",
        kind,
        width,
        2 * a.nnz * width,
        lambda: kernel(*args),
        lambda r: float(np.abs(r - (a.data + dots)).max() / np.abs(dots).max()),  # torch adds A, ours multiplies by it
        {"torch": "sddmm_torch"},
        peer,
        arrays,
        rounds,
    )


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = report.parser(__doc__, rounds=9)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128])
    options = parser.parse_args()
    cores = physical_cores()
    use_cores(options.threads)
    target, about = report.heading(options)
    results = []
    with Peer(options.threads, cores) as peer:
        for width in options.widths:
            for kind in ("uniform", "power"):
                results.append(measure_spmm(kind, width, target, options.threads, peer, options.rounds))
                results.append(measure_sddmm(kind, width, target, options.threads, peer, options.rounds))
        results.append(measure_bsr(128, target, peer, options.rounds))
    print(f"{'kernel':8} {'matrix':14} {'width':>5} {'ms':>7} {'GFLOP/s':>8}  peers: ms (ratio to ours)")
    for r in results:
        peers = "  ".join(f"{label} {ms:.2f} ({ratio:.2f})" for label, (ms, ratio) in r.peers.items())
        print(f"{r.name:8} {r.matrix:14} {r.width:5} {r.milliseconds:7.2f} {r.gigaflops:8.0f}  {peers}")
    report.write(options, about, results)


if __name__ == "__main__":
    main()
