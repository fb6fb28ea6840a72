"""Shapes that torch knows and Relax's inference does not: a slice `table[:n]` has n rows, n being within its bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...schedules.compat import Analyzer, TensorType, relax, tirx

Node = Any  # torch.fx.Node
Importer = Any  # tvm's ExportedProgramImporter


def exact(importer: Importer, convert: Callable[..., Any]) -> Callable[..., Any]:
    """A conversion of nodes that gives its result the shape that torch has traced, by a reshape where Relax has another."""

    def converted(node: Node, *args: Any) -> Any:
        result = convert(node, *args)
        traced = getattr(node.meta.get("val"), "shape", None)
        if traced is None or not (isinstance(result, relax.Expr) and isinstance(result.ty, TensorType)):
            return result
        symbols = _symbols(importer)
        shape = [_extent(size, symbols) for size in traced]
        if any(extent is None for extent in shape) or _same(result.ty.shape, shape):
            return result
        return importer.block_builder.emit(relax.op.reshape(result, relax.ShapeExpr(shape)))

    return converted


def _symbols(importer: Importer) -> dict[str, tirx.Var]:
    """The symbolic extents of the arguments by name."""
    shapes = [value.ty.shape for value in importer.env.values() if isinstance(value, relax.Var) and _has_shape(value)]
    return {str(extent.name): extent for shape in shapes for extent in shape if isinstance(extent, tirx.Var)}


def _has_shape(value: relax.Var) -> bool:
    return isinstance(value.ty, TensorType) and value.ty.shape is not None


def _extent(size: Any, symbols: dict[str, tirx.Var]) -> Any:
    """An extent of torch's (an int or a SymInt over sums and products) in Relax's symbols; None for other expressions."""
    return size if isinstance(size, int) else _expression(size.node.expr, symbols)


def _expression(expr: Any, symbols: dict[str, tirx.Var]) -> Any:
    if expr.is_Integer:
        return int(expr)
    if expr.is_Symbol:
        return symbols.get(str(expr))
    terms = [_expression(arg, symbols) for arg in expr.args]
    if not (expr.is_Add or expr.is_Mul) or any(term is None for term in terms):
        return None
    total = terms[0]
    for term in terms[1:]:
        total = total + term if expr.is_Add else total * term
    return total


def _same(found: Any, wanted: list[Any]) -> bool:
    analyzer = Analyzer()
    if found is None or len(found) != len(wanted):
        return False
    return all(analyzer.can_prove_equal(a, b) for a, b in zip(found, wanted, strict=True))
