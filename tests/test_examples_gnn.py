"""The graph networks of examples/gnn: one compilation each, against plain NumPy and against torch, on graphs of many sizes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from benchmarks.peer import Peer
from examples.gnn.graph import Graph, mean, messages, normalized, power_law, relation_matrices
from examples.gnn.models import GCN, MATRIX, RGCN, SAGE, Model, Tensors, dense
from examples.gnn.network import Network
from examples.gnn.run import peer_arrays
from heddle.ir_passes.dialect import sddmm, spmm
from heddle.schedules.compat import nn

RELATIONS = 3
WIDTHS = (24, 32, 7)  # whole vectors, and not
MODELS = {m.name: m for m in (GCN(WIDTHS), SAGE(WIDTHS, "mean"), SAGE(WIDTHS, "max"), RGCN(WIDTHS, RELATIONS))}


def hub() -> Graph:
    """Node 2 has an edge from and to every even node; odd nodes are isolated, and relation 1 has no edges."""
    others = np.array([i for i in range(0, 60, 2) if i != 2], np.int32)
    two = np.full_like(others, 2)
    relation = np.concatenate((np.zeros(len(others)), np.full(len(others), 2))).astype(np.int32)
    return Graph(60, np.concatenate((others, two)), np.concatenate((two, others)), relation, RELATIONS)


def edgeless(nodes: int) -> Graph:
    nothing = np.zeros(0, np.int32)
    return Graph(nodes, nothing, nothing, nothing, RELATIONS)


GRAPHS = {"power": power_law(150, 5, RELATIONS), "hub": hub(), "edgeless": edgeless(3), "single": edgeless(1)}


def features(graph: Graph) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((graph.nodes, WIDTHS[0]), np.float32)


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    """Every model, compiled once; all tests use these."""
    return {name: Network(model, model.random_weights()) for name, model in MODELS.items()}


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with Peer(1, sorted(os.sched_getaffinity(0))[:1]) as process:
        yield process


def plain(model: Model, graph: Graph, x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """The network node by node in float64, as its paper writes it."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    edges = list(zip(graph.source.tolist(), graph.target.tolist(), graph.relation.tolist(), strict=True))
    degree = [1 + sum(t == i for _, t, _ in edges) for i in range(graph.nodes)]
    h = x.astype(np.float64)
    for n in range(len(WIDTHS) - 1):
        out = []
        for i in range(graph.nodes):
            near = [(h[s], s, r) for s, t, r in edges if t == i]
            if model.name == "gcn":
                total = h[i] / degree[i] + sum(v / (degree[i] * degree[s]) ** 0.5 for v, s, _ in near)
                out.append(w[f"w{n}"] @ total + w[f"b{n}"])
                continue
            y = w[f"self{n}"] @ h[i] + w[f"b{n}"]
            if near and model.name == "sage_mean":
                y = y + w[f"near{n}"] @ np.mean([v for v, _, _ in near], axis=0)
            elif near and model.name == "sage_max":
                y = y + w[f"near{n}"] @ np.max([v for v, _, _ in near], axis=0)
            elif model.name == "rgcn":
                for relation in sorted({r for _, _, r in near}):
                    y = y + np.mean([v for v, _, r in near if r == relation], axis=0) @ w[f"relation{n}"][relation]
            out.append(y)
        h = np.array(out)
        if n < len(WIDTHS) - 2:
            h = np.maximum(h, 0)
    return h


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", MODELS)
def test_equals_the_formula_node_by_node(name: str, graph: str, networks: dict[str, Network]) -> None:
    model, g = MODELS[name], GRAPHS[graph]
    got, want = networks[name](g, features(g)), plain(model, g, features(g), model.random_weights())
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", MODELS)
def test_equals_torch(name: str, graph: str, networks: dict[str, Network], peer: Peer) -> None:
    model, g = MODELS[name], GRAPHS[graph]
    want = peer.prepare(f"{name}_torch", peer_arrays(model, g, features(g), model.random_weights()))
    assert isinstance(want, np.ndarray), want
    np.testing.assert_allclose(networks[name](g, features(g)), want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", MODELS)
def test_the_compiled_function_knows_no_graph(name: str) -> None:
    """No type of a parameter that stands for the graph has a number of nodes, edges or work items in it."""
    params = MODELS[name].module()["main"].params
    graph_made = [p for p in params if p.name not in MODELS[name].weight_shapes()]
    assert len(graph_made) >= 5
    for param in graph_made:
        leading = param.ty.shape[0]
        assert not str(leading).isdigit(), f"{param.name} is {leading} long in every graph"


class EdgeScores(GCN):
    """The README's model of one's own: edges weighed by the products of their ends' features."""

    name = "scores"

    def layer(self, number: int, x: nn.Tensor, rows: Any, t: Tensors) -> nn.Tensor:
        *arrays, values = (t[f"a_{part}"] for part in MATRIX)
        scores = sddmm(arrays, values, x, x, format="balanced")
        return dense(spmm(arrays, scores, x, rows=rows, format="balanced"), f"w{number}", t)


def test_sddmm_gives_the_weights_of_edges() -> None:
    model, g = EdgeScores((32, 16)), GRAPHS["power"]
    weights = model.random_weights()
    x = np.random.default_rng(0).standard_normal((g.nodes, 32), np.float32)
    want = (normalized(g).to_dense() * (x @ x.T)) @ x @ weights["w0"].T
    np.testing.assert_allclose(Network(model, weights)(g, x), want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def test_nodes_without_neighbours_keep_only_their_own_part(networks: dict[str, Network]) -> None:
    """An isolated node gets what it gets in a graph without edges, whatever stands around it."""
    x = features(hub())
    for name in ("sage_mean", "sage_max", "rgcn"):
        np.testing.assert_array_equal(networks[name](hub(), x)[1::2], networks[name](edgeless(60), x)[1::2])


def test_power_law_graphs_have_a_hub_and_a_long_tail() -> None:
    g = power_law(2000, 16, 4)
    edges = set(zip(g.source.tolist(), g.target.tolist(), strict=True))
    assert len(edges) == g.edges
    assert not (g.source == g.target).any()
    assert set(g.relation.tolist()) == {0, 1, 2, 3}
    assert g.degrees.max() > 20 * np.median(g.degrees)
    again = power_law(2000, 16, 4)
    np.testing.assert_array_equal(again.source, g.source)
    assert not np.array_equal(power_law(2000, 16, 4, seed=1).source, g.source)


def test_normalized_is_the_textbook_matrix() -> None:
    g = GRAPHS["power"]
    a = np.eye(g.nodes)
    a[g.target, g.source] = 1
    scale = np.diag(a.sum(1) ** -0.5)
    np.testing.assert_allclose(normalized(g).to_dense(), scale @ a @ scale, rtol=1e-6)


def test_rows_of_the_mean_sum_to_one_or_are_empty() -> None:
    np.testing.assert_allclose(mean(hub()).to_dense().sum(1), np.arange(60) % 2 == 0, rtol=1e-6)


def test_messages_compose_to_the_relations() -> None:
    """deliver @ (the messages of relation r) @ collect is relation r's own matrix; relations without edges have no messages."""
    g = hub()
    found = messages(g)
    ids, starts, order = found.groups
    np.testing.assert_array_equal(ids, [0, 2])
    np.testing.assert_array_equal(order, np.arange(30))
    for r, matrix in enumerate(relation_matrices(g)):
        chosen = np.zeros(len(order))
        for group in np.flatnonzero(ids == r):
            chosen[order[starts[group] : starts[group + 1]]] = 1
        product = found.deliver.to_dense() @ np.diag(chosen) @ found.collect.to_dense()
        np.testing.assert_allclose(product, matrix.to_dense(), rtol=1e-6)


def test_unknown_aggregation() -> None:
    with pytest.raises(ValueError, match="unknown aggregation 'median'; choose mean or max"):
        SAGE(WIDTHS, "median")
