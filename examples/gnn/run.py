"""Check GCN, GraphSAGE and RGCN against torch, and time them against torch.sparse on a power-law graph.

    python -m examples.gnn.run --threads 2

Each model is compiled once, checked on small graphs, and timed on the large one by the same compiled function. torch runs in a
process of its own. Rounds alternate; times are medians, ratios medians of the ratios of neighbouring rounds. `fastest` are both
sides' fastest rounds: on a machine that does other work, too, they say more.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time

if __name__ == "__main__":
    os.environ.setdefault("TVM_BIND_THREADS", "0")

import numpy as np

from benchmarks.limits import seconds, use_cores
from benchmarks.peer import Peer
from heddle.ir_passes.sparse.formats import CSR
from heddle.runtime.features import physical_cores

from .graph import Graph, adjacency, mean, normalized, power_law, relation_matrices
from .models import GCN, RGCN, SAGE, Model
from .network import Network

SMALL = (1, 50, 700)  # nodes of the graphs that are only checked
TOLERANCE = 1e-4  # of the largest value


@dataclasses.dataclass(frozen=True)
class Result:
    """Seconds to compile, median milliseconds of one inference, the median ratio torch / ours, both sides' fastest milliseconds,
    and the largest error."""

    name: str
    compile_seconds: float
    milliseconds: float
    torch_milliseconds: float
    ratio: float
    fastest: tuple[float, float]
    error: float


def peer_arrays(model: Model, graph: Graph, x: np.ndarray, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same inference for the torch process: matrices as plain CSR."""
    shared = {"x": x, "shape": np.array([graph.nodes, graph.nodes]), **weights}
    if isinstance(model, RGCN):
        return shared | {k: v for r, m in enumerate(relation_matrices(graph)) for k, v in csr_arrays(m, str(r)).items()}
    matrices = {"gcn": normalized, "sage_mean": mean, "sage_max": adjacency}
    return shared | csr_arrays(matrices[model.name](graph))


def csr_arrays(matrix: CSR, suffix: str = "") -> dict[str, np.ndarray]:
    """The arrays of a CSR matrix by name."""
    return {f"{name}{suffix}": getattr(matrix, name) for name in ("indptr", "indices", "data")}


def features(graph: Graph, width: int) -> np.ndarray:
    return np.random.default_rng(graph.nodes).standard_normal((graph.nodes, width), np.float32)


def measure(model: Model, graph: Graph, peer: Peer, rounds: int) -> Result:
    """Check a model on small graphs and on `graph`, then time it there. RuntimeError where it disagrees with torch."""
    weights = model.random_weights()
    start = time.perf_counter()
    network = Network(model, weights)
    spent = time.perf_counter() - start
    case, worst = f"{model.name}_torch", 0.0
    for g in (*(power_law(nodes, 4, graph.relations) for nodes in SMALL), graph):
        x = features(g, model.widths[0])
        want = peer.prepare(case, peer_arrays(model, g, x, weights))
        if isinstance(want, str):
            raise RuntimeError(f"torch cannot run {model.name}: {want}")
        worst = max(worst, float(np.abs(network(g, x) - want).max() / np.abs(want).max()))
    if worst > TOLERANCE:
        raise RuntimeError(f"{model.name} differs from torch by {worst:.1e} of the largest value")
    arguments = network.prepare(graph, x)
    repeat = max(1, int(0.05 / seconds(lambda: network.run(arguments), 2)))
    own, theirs = [], []
    for _ in range(rounds):
        time.sleep(peer.pause)
        own.append(seconds(lambda: network.run(arguments), repeat))
        theirs.append(peer.seconds(case, max(1, repeat // 2)))
    ratio = statistics.median(t / o for o, t in zip(own, theirs, strict=True))
    fastest = min(own) * 1e3, min(theirs) * 1e3
    medians = statistics.median(own) * 1e3, statistics.median(theirs) * 1e3
    return Result(model.name, spent, *medians, ratio, fastest, worst)


def main() -> None:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=20_000)
    parser.add_argument("--degree", type=int, default=32)
    parser.add_argument("--width", type=int, default=64, help="features of every layer")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--relations", type=int, default=4)
    parser.add_argument("--threads", type=int, default=min(2, len(physical_cores())))
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    cores = physical_cores()
    use_cores(options.threads)
    graph = power_law(options.nodes, options.degree, options.relations)
    degrees = graph.degrees
    print(
        f"{graph.nodes} nodes, {graph.edges} edges, largest degree {degrees.max()}, {np.sum(degrees == 0)} isolated; "
        f"{options.layers} layers of {options.width}, {options.threads} threads"
    )
    widths = [options.width] * (options.layers + 1)
    models = (GCN(widths), SAGE(widths, "mean"), SAGE(widths, "max"), RGCN(widths, options.relations))
    print(f"{'model':10} {'compile s':>9} {'ms':>7} {'torch ms':>9} {'ratio':>6} {'fastest':>14} {'error':>8}")
    with Peer(options.threads, cores) as peer:
        for model in models:
            r = measure(model, graph, peer, options.rounds)
            print(
                f"{r.name:10} {r.compile_seconds:9.2f} {r.milliseconds:7.2f} {r.torch_milliseconds:9.2f} "
                f"{r.ratio:6.2f} {r.fastest[0]:6.2f} {r.fastest[1]:7.2f} {r.error:8.1e}"
            )


if __name__ == "__main__":
    main()
