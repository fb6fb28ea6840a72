"""GCN, GraphSAGE and RGCN as Relax functions of the dialect's ops: every extent that a graph decides is symbolic."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from heddle.ir_passes.dialect import activation, add, grouped_matmul, linear, spmm
from heddle.ir_passes.sparse.formats import CSR, to_balanced
from heddle.schedules.compat import TensorType, ir, nn, relax, tirx

from .graph import Graph, adjacency, mean, messages, normalized

ITEMS = 32  # work items of a matrix: several for each thread, so that none waits long for the last
MATRIX = ("bounds", "indptr", "indices", "values")  # arrays of the format balanced

Tensors = Mapping[str, nn.Tensor]
Types = dict[str, TensorType]


class Model(abc.ABC):
    """A network of layers with the given widths (features of the input, then of each layer's output), relu between layers.

    The compiled function takes the arrays of `graph_types` (as `arrays` makes them for a graph), `x` float32 [nodes, features],
    and the weights of `weight_shapes`; it returns float32 [nodes, last width].
    """

    name: str

    def __init__(self, widths: Sequence[int]) -> None:
        self.widths = tuple(widths)

    @abc.abstractmethod
    def arrays(self, graph: Graph) -> dict[str, np.ndarray]:
        """What the function takes in place of the graph, by name."""

    @abc.abstractmethod
    def graph_types(self, nodes: tirx.Var) -> Types:
        """Types of these arrays, in the order of the parameters."""

    @abc.abstractmethod
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights by name, in the order of the parameters; the name ends with the layer's number."""

    @abc.abstractmethod
    def layer(self, number: int, x: nn.Tensor, rows: Any, t: Tensors) -> nn.Tensor:
        """One layer without its activation, on `rows` nodes; `t` holds all parameters by name."""

    def module(self) -> ir.IRModule:
        """The network as a module with the one function `main`."""
        nodes, builder = tirx.Var("nodes", "int64"), relax.BlockBuilder()
        types = self.graph_types(nodes) | {"x": TensorType([nodes, self.widths[0]], "float32")}
        types |= {name: TensorType(shape, "float32") for name, shape in self.weight_shapes().items()}
        params = {name: relax.Var(name, type) for name, type in types.items()}
        with builder.function("main", list(params.values())):
            with builder.dataflow():
                tensors = {name: nn.Tensor(_expr=param) for name, param in params.items()}
                x = tensors["x"]
                for number in range(len(self.widths) - 1):
                    x = self.layer(number, activation(x, kind="relu") if number else x, nodes, tensors)
                output = builder.emit_output(x._expr)
            builder.emit_func_output(output)
        return builder.finalize()

    def random_weights(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Gaussian weights that keep the scale of the features."""
        rng = np.random.default_rng(seed)
        scale = max(self.widths) ** -0.5
        shapes = self.weight_shapes().items()
        return {name: rng.standard_normal(shape, np.float32) * np.float32(scale) for name, shape in shapes}

    def layers(self) -> Iterator[tuple[int, int, int]]:
        """(number, features in, features out) of every layer."""
        yield from ((number, *widths) for number, widths in enumerate(pairwise(self.widths)))


class GCN(Model):
    """Graph convolution (Kipf and Welling 2017): A x W^T + b, A the normalised adjacency matrix."""

    name = "gcn"

    def arrays(self, graph: Graph) -> dict[str, np.ndarray]:
        return matrix_arrays("a", normalized(graph))

    def graph_types(self, nodes: tirx.Var) -> Types:
        return matrix_types("a", nodes)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        return {k: s for n, i, o in self.layers() for k, s in ((f"w{n}", (o, i)), (f"b{n}", (o,)))}

    def layer(self, number: int, x: nn.Tensor, rows: Any, t: Tensors) -> nn.Tensor:
        # The product is associative: aggregating first lets the linear finish the layer.
        return dense(aggregate("a", x, rows, t), f"w{number}", t, f"b{number}")


class SAGE(Model):
    """GraphSAGE (Hamilton et al. 2017): W_self x + W_near aggregate(x) + b, the aggregate a mean or a maximum.

    Nodes without neighbours aggregate to 0.
    """

    def __init__(self, widths: Sequence[int], aggregation: str = "mean") -> None:
        super().__init__(widths)
        if aggregation not in ("mean", "max"):
            raise ValueError(f"unknown aggregation {aggregation!r}; choose mean or max")
        self.aggregation = aggregation
        self.name = f"sage_{aggregation}"

    def arrays(self, graph: Graph) -> dict[str, np.ndarray]:
        return matrix_arrays("a", mean(graph) if self.aggregation == "mean" else adjacency(graph))

    def graph_types(self, nodes: tirx.Var) -> Types:
        return matrix_types("a", nodes)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        names = ((f"self{n}", (o, i)) for n, i, o in self.layers())
        near = ((f"near{n}", (o, i)) for n, i, o in self.layers())
        return dict(names) | dict(near) | {f"b{n}": (o,) for n, _, o in self.layers()}

    def layer(self, number: int, x: nn.Tensor, rows: Any, t: Tensors) -> nn.Tensor:
        near = aggregate("a", x, rows, t, "max" if self.aggregation == "max" else "sum")
        return add(dense(near, f"near{number}", t, f"b{number}"), dense(x, f"self{number}", t))


class RGCN(Model):
    """Relational graph convolution (Schlichtkrull et al. 2018): W_self x + sum over relations r of mean_r(x) W_r + b.

    Three steps: `collect` takes one mean for every pair of a node and a relation that reaches it, a grouped product transforms
    each by the weights of its relation, `deliver` sums them per node. Pairs without edges cost nothing.
    """

    name = "rgcn"

    def __init__(self, widths: Sequence[int], relations: int) -> None:
        super().__init__(widths)
        self.relations = relations

    def arrays(self, graph: Graph) -> dict[str, np.ndarray]:
        found = messages(graph)
        groups = dict(zip(("ids", "starts", "order"), found.groups, strict=True))
        return matrix_arrays("collect", found.collect) | groups | matrix_arrays("deliver", found.deliver)

    def graph_types(self, nodes: tirx.Var) -> Types:
        count, used = tirx.Var("messages", "int64"), tirx.Var("used", "int64")
        groups = {name: TensorType([n], "int32") for name, n in (("ids", used), ("starts", used + 1), ("order", count))}
        return matrix_types("collect", count) | groups | matrix_types("deliver", nodes, count)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for n, i, o in self.layers():
            shapes |= {f"relation{n}": (self.relations, i, o), f"self{n}": (o, i), f"b{n}": (o,)}
        return shapes

    def layer(self, number: int, x: nn.Tensor, rows: Any, t: Tensors) -> nn.Tensor:
        means = aggregate("collect", x, t["order"].shape[0], t)
        sent = grouped_matmul(t["ids"], t["starts"], t["order"], means, t[f"relation{number}"])
        return add(aggregate("deliver", sent, rows, t), dense(x, f"self{number}", t, f"b{number}"))


def matrix_arrays(name: str, matrix: CSR) -> dict[str, np.ndarray]:
    """A matrix in the format balanced: rows of very unequal length, dealt to work items of equal cost."""
    operand = to_balanced(matrix, ITEMS)
    return {f"{name}_{part}": array for part, array in zip(MATRIX, operand.params, strict=True)}


def matrix_types(name: str, rows: tirx.Var, entries: tirx.Var | None = None) -> Types:
    """Types of these arrays."""
    bounds = tirx.Var(f"{name}_items", "int64")
    count = tirx.Var(f"{name}_edges", "int64") if entries is None else entries
    types = ([bounds], "int32"), ([rows + 1], "int32"), ([count], "int32"), ([count], "float32")
    return {f"{name}_{part}": TensorType(*type) for part, type in zip(MATRIX, types, strict=True)}


def aggregate(name: str, x: nn.Tensor, rows: Any, t: Tensors, combine: str = "sum") -> nn.Tensor:
    """The matrix of that name times x, products combined by `combine`."""
    *arrays, values = (t[f"{name}_{part}"] for part in MATRIX)
    return spmm(arrays, values, x, rows=rows, format="balanced", combine=combine)


def dense(x: nn.Tensor, weight: str, t: Tensors, bias: str | None = None) -> nn.Tensor:
    """x times the transposed weight of that name, plus a bias."""
    return linear(x, t[weight], t[bias] if bias else None, site=weight, axes=("out", "in"))
