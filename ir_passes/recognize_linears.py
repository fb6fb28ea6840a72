"""Find the linears of an imported program: products with the transpose of a weight become `heddle.linear`.

    lv = permute_dims(w)                     x2 = reshape(x, [rows, K])
    y = add(matmul(x, lv), b)           -->  y = reshape(linear(x2, w, b), [..., N])

x [..., K] float32; w [N, K] and b [N] are parameters. What stays a matmul is reported with the reason.
"""

from __future__ import annotations

import dataclasses

from ..schedules.compat import TensorType, ir, relax, tirx
from .dialect import linear_op, shape_of
from .dialect.registry import WEIGHT_DTYPES, PrimExpr
from .lift_weights import weight_params
from .passes import PassLog
from .specialize_rows import FEW_ROWS
from .straightline import DROP, Expr, Rewriter, rewrite_functions

ADD, MATMUL, PERMUTE = (ir.Op.get(f"relax.{name}") for name in ("add", "matmul", "permute_dims"))
AXES = ["out", "in"]


@dataclasses.dataclass(frozen=True)
class RecognizeLinears:
    """`dtype` is the type that weights of linears are stored in, where nothing else reads them ("": as they are)."""

    dtype: str = ""
    name: str = "recognize_linears"

    def __call__(self, mod: ir.IRModule, log: PassLog) -> ir.IRModule:
        assert not self.dtype or self.dtype in WEIGHT_DTYPES
        return rewrite_functions(mod, log, lambda func, log: _Recognizer(func, self.dtype, log).run())


def linears(mod: ir.IRModule) -> dict[str, str]:
    """The sites that RecognizeLinears finds, each with the name of its weight."""
    found = {}
    for func in mod.functions.values():
        recognizer = _Recognizer(func, "", PassLog())
        for value in recognizer.products().values():
            weight = str(recognizer.weight(value).name)
            found[site_of(weight)] = weight
    return found


def site_of(weight: str) -> str:
    """The site of a linear whose weight has this name."""
    return weight.removesuffix(".weight")


class _Recognizer:
    """The walk over one function."""

    def __init__(self, func: relax.Function, dtype: str, log: PassLog) -> None:
        self.func, self.dtype, self.log = func, dtype, log
        self.rewriter = Rewriter(func)
        self.weights = set(weight_params(func))
        self.params = {param: param for param in func.params}
        self.flat: dict[relax.Var, relax.Var] = {}  # x -> x as a matrix, for linears that share it

    def run(self) -> relax.Function:
        """The function with its linears."""
        rewriter = self.rewriter
        linears = self.products()
        if self.dtype:
            self._retype({self.weight(value) for value in linears.values()}, set(linears))
        biased = {}  # the sum with a bias -> (the product, the bias)
        for var, value in rewriter.bindings:
            if (found := self._biased(value, linears)) is not None:
                biased[var] = found
        waiting = {product for product, _ in biased.values()}

        def visit(var: relax.Var, value: Expr) -> object:
            if var in waiting:
                return DROP  # emitted with its bias
            if var in biased:
                product, bias = biased[var]
                return self._linear(linears[product], bias, var)
            return self._linear(value, None, var) if var in linears else None

        return rewriter.rebuild(visit, params=lambda: list(self.params.values()))

    def products(self) -> dict[relax.Var, relax.Call]:
        """The products that are linears, by variable."""
        return {var: value for var, value in self.rewriter.bindings if self._is_linear(value)}

    def weight(self, product: relax.Call) -> relax.Var:
        """The weight of a linear."""
        return self.rewriter.value(product.args[1]).args[0]

    def _is_linear(self, value: Expr) -> bool:
        """Whether `value` is x times a weight's transpose; says why where it is another product."""
        if not (isinstance(value, relax.Call) and value.op == MATMUL):
            return False
        transposed = self.rewriter.value(value.args[1])
        reason = ""
        if not (isinstance(transposed, relax.Call) and transposed.op == PERMUTE):
            reason = "its second factor is not a weight's transpose"
        elif transposed.args[0] not in self.weights or len(shape_of(transposed.args[0])) != 2:
            reason = "its second factor is not the transpose of a matrix among the weights"
        elif value.args[0].ty.shape is None:
            reason = "the shape of its first factor is not known"
        elif any(str(side.ty.dtype) != "float32" for side in (value, value.args[0], transposed)):
            reason = "it is not of float32"
        elif transposed.attrs.axes is not None and [int(a) for a in transposed.attrs.axes] != [1, 0]:
            reason = "its second factor is not transposed"
        if reason:
            self.log.missed("matmul", reason)
        return not reason

    def _biased(self, value: Expr, linears: dict[relax.Var, Expr]) -> tuple[relax.Var, relax.Var] | None:
        """The product and the bias whose sum `value` is, where nothing else needs the product."""
        if not (isinstance(value, relax.Call) and value.op == ADD):
            return None
        for product, bias in (value.args, reversed(value.args)):
            if product not in linears or bias not in self.weights or len(self.rewriter.users(product)) > 1:
                continue
            if shape_of(bias) == shape_of(self.weight(linears[product]))[:1]:
                return product, bias
        return None

    def _linear(self, product: relax.Call, bias: relax.Var | None, var: relax.Var) -> relax.Call:
        """The dialect call for a product, as an expression of the result's own shape."""
        x, weight = product.args[0], self.weight(product)
        *outer, features = shape_of(x)
        rows: PrimExpr = 1
        for extent in outer:
            rows = rows * extent
        site = site_of(str(weight.name))
        self.log.matched(site)
        operands = [] if bias is None else [self.rewriter.new(bias)]
        call = linear_op(
            self._matrix(x, rows, features),
            self.rewriter.new(weight),
            *operands,
            site=site,
            axes=AXES,
            epilogue=["bias"] if operands else [],
            rows=_row_class(rows),
            scheme="",
        )
        if len(outer) == 1:
            return call
        return relax.op.reshape(self.rewriter.emit(call), relax.ShapeExpr(list(var.ty.shape)))

    def _matrix(self, x: relax.Var, rows: PrimExpr, features: int) -> Expr:
        if len(shape_of(x)) == 2:
            return self.rewriter.new(x)
        if x not in self.flat:
            self.flat[x] = self.rewriter.emit(relax.op.reshape(self.rewriter.new(x), relax.ShapeExpr([rows, features])))
        return self.flat[x]

    def _retype(self, weights: set[relax.Var], linears: set[relax.Var]) -> None:
        """Give weights that only linears read the chosen type."""
        for weight in sorted(weights, key=lambda w: str(w.name)):
            transposes = self.rewriter.users(weight)
            if all(user in linears for t in transposes for user in self.rewriter.users(t)):
                self.params[weight] = relax.Var(str(weight.name), TensorType(list(weight.ty.shape), self.dtype))
                self.rewriter.provide(weight, self.params[weight])
            else:
                self.log.missed(str(weight.name), "other operators read it too: it stays float32")


def _row_class(rows: PrimExpr) -> str:
    """The instance of the kernels for a number of rows that is known now; any number of rows suits `n`."""
    if isinstance(rows, int | tirx.IntImm):
        return next((few for few in FEW_ROWS if int(rows) <= int(few)), "n")
    return "n"
