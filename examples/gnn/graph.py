"""Graphs with power-law degrees, and the matrices that graph networks aggregate with."""

from __future__ import annotations

import dataclasses

import numpy as np

from heddle.ir_passes.sparse.formats import CSR, group_arrays


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """Edges source -> target, each at most once and none to itself: int32 [edges], with a relation below `relations` each."""

    nodes: int
    source: np.ndarray
    target: np.ndarray
    relation: np.ndarray
    relations: int = 1

    @property
    def edges(self) -> int:
        return len(self.source)

    @property
    def degrees(self) -> np.ndarray:
        """Edges that end in each node, int64 [nodes]."""
        return np.bincount(self.target, minlength=self.nodes)


def power_law(nodes: int, degree: int, relations: int = 1, seed: int = 0, exponent: float = 0.8) -> Graph:
    """About `degree` edges a node: the k-th most popular end is drawn with a weight of k ** -exponent, for both ends apart.

    Edges that are drawn again, and edges of a node to itself, are dropped; so the mean degree comes out lower.
    """
    rng = np.random.default_rng(seed)
    weights = np.arange(1, nodes + 1) ** -exponent
    weights /= weights.sum()
    source, target = (rng.permutation(nodes)[rng.choice(nodes, nodes * degree, p=weights)] for _ in range(2))
    edge = np.unique(target * nodes + source)
    source, target = (edge % nodes).astype(np.int32), (edge // nodes).astype(np.int32)
    proper = source != target
    source, target = source[proper], target[proper]
    return Graph(nodes, source, target, rng.integers(0, relations, len(source)).astype(np.int32), relations)


def adjacency(graph: Graph, values: np.ndarray | None = None) -> CSR:
    """A [target, source] with these values of the edges, 1 if left out."""
    data = np.ones(graph.edges) if values is None else values
    return CSR.from_coordinates(graph.target, graph.source, data.astype(np.float32), (graph.nodes, graph.nodes))


def normalized(graph: Graph) -> CSR:
    """D^-1/2 (A + I) D^-1/2, D the row sums of A + I (Kipf and Welling 2017)."""
    scale = (graph.degrees + 1.0) ** -0.5
    loops = np.arange(graph.nodes, dtype=np.int32)
    target, source = np.concatenate((graph.target, loops)), np.concatenate((graph.source, loops))
    values = (scale[target] * scale[source]).astype(np.float32)
    return CSR.from_coordinates(target, source, values, (graph.nodes, graph.nodes))


def mean(graph: Graph) -> CSR:
    """D^-1 A: the rows of nodes with neighbours sum to 1, those of isolated nodes are empty."""
    return adjacency(graph, 1.0 / np.maximum(graph.degrees, 1)[graph.target])


def relation_matrices(graph: Graph) -> list[CSR]:
    """D_r^-1 A_r for every relation: the mean over the neighbours of one relation."""
    found = []
    for r in range(graph.relations):
        at = graph.relation == r
        part = Graph(graph.nodes, graph.source[at], graph.target[at], graph.relation[at])
        found.append(mean(part))
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Messages:
    """The messages of a graph with relations: one for each pair of a node and a relation by which edges reach it.

    `collect` [messages, nodes] takes the mean over the neighbours of a message, `groups` are the arrays of the format grouped
    (messages by relation), and `deliver` [nodes, messages] sums the messages of a node.
    """

    collect: CSR
    groups: tuple[np.ndarray, np.ndarray, np.ndarray]
    deliver: CSR


def messages(graph: Graph) -> Messages:
    """Messages ordered by relation, then node; relations without edges have none."""
    key = graph.relation.astype(np.int64) * graph.nodes + graph.target
    pairs, message, counts = np.unique(key, return_inverse=True, return_counts=True)
    shape = (len(pairs), graph.nodes)
    collect = CSR.from_coordinates(message, graph.source, (1.0 / counts[message]).astype(np.float32), shape)
    node, ones = (pairs % graph.nodes).astype(np.int32), np.ones(len(pairs), np.float32)
    deliver = CSR.from_coordinates(node, np.arange(len(pairs)), ones, shape[::-1])
    return Messages(collect, group_arrays(pairs // graph.nodes, graph.relations), deliver)
