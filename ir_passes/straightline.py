"""Rewriting of straight-line Relax functions: one dataflow block, bindings in order.

Our functions have no control flow, so a rewrite is a walk over bindings that says what each becomes. This is shorter and
easier to follow than an expression mutator, and it lets one match span several bindings (the q, k and v of one attention).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..schedules.compat import ir, relax
from .passes import PassLog

Expr = Any
DROP = object()  # a visit's answer: emit nothing, somebody else provides this variable or nobody needs it


class Rewriter:
    """Walks one function's bindings and builds its replacement.

    `visit(var, value)` sees the old variable and value. It returns the new value (built from `new(...)` expressions),
    `None` to keep the binding, or `DROP`. Bindings whose variable nobody uses are not emitted: every op here is pure.
    """

    def __init__(self, func: relax.Function) -> None:
        self.func = func
        self.bindings = list(_bindings(func))
        self.result = func.body.body
        if not (isinstance(self.result, relax.Var) and self.bindings and self.bindings[-1][0].same_as(self.result)):
            raise ValueError("the result of a straight-line function is the variable that it binds last")
        self._value = dict(self.bindings)
        self._users: dict[relax.Var, list[relax.Var]] = {}
        for var, value in self.bindings:
            for used in variables(value):
                self._users.setdefault(used, []).append(var)
        for used in variables(self.result):
            self._users.setdefault(used, []).append(used)
        self._new: dict[relax.Var, Expr] = {}
        self._builder: relax.BlockBuilder | None = None

    def value(self, expr: Expr) -> Expr:
        """The old value that a variable is bound to; parameters and other expressions are their own."""
        return self._value.get(expr, expr) if isinstance(expr, relax.Var) else expr

    def users(self, var: relax.Var) -> list[relax.Var]:
        """The old variables whose values use `var`, in order; the function's result counts as a user of itself."""
        return self._users.get(var, [])

    def new(self, expr: Expr) -> Expr:
        """An old expression in terms of the new variables."""
        return substitute(expr, self._new)

    def provide(self, var: relax.Var, expr: Expr) -> None:
        """Say what an old variable became (for variables whose own binding was dropped)."""
        self._new[var] = expr

    def emit(self, expr: Expr, name: str = "") -> relax.Var:
        """Bind a new expression before the binding that is being visited."""
        assert self._builder is not None, "emit is for use inside a visit"
        return self._builder.emit(expr, name)

    def rebuild(
        self,
        visit: Callable[[relax.Var, Expr], Expr],
        *,
        params: Callable[[], Sequence[relax.Var]] | None = None,
    ) -> relax.Function:
        """The new function. `params` is asked after the walk, for rewrites that find their parameters on the way."""
        self._builder = builder = relax.BlockBuilder()
        live = self._live()
        with builder.function("rewritten", list(self.func.params)):
            with builder.dataflow():
                for var, value in self.bindings:
                    if var not in live:
                        continue
                    answer = visit(var, value)
                    if answer is DROP:
                        continue
                    fresh = self.new(value) if answer is None else answer
                    if var.same_as(self.result):
                        self._new[var] = builder.emit_output(fresh, var.name)
                    else:
                        self._new[var] = fresh if isinstance(fresh, relax.Var) else builder.emit(fresh, var.name)
            builder.emit_func_output(self.new(self.result))
        built = builder.finalize()["rewritten"]
        final = list(params()) if params else list(built.params)
        attrs = dict((self.func.attrs or {}).items())
        func = relax.Function(final, built.body, built.ret_ty, is_pure=self.func.is_pure)
        func = relax.analysis.remove_all_unused(func)
        return func.with_attrs(attrs) if attrs else func

    def _live(self) -> set[relax.Var]:
        live = set(variables(self.result))
        for var, value in reversed(self.bindings):
            if var in live:
                live.update(variables(value))
        return live


def rewrite_functions(
    mod: ir.IRModule, log: PassLog, rewrite: Callable[[relax.Function, PassLog], relax.Function]
) -> ir.IRModule:
    """Apply `rewrite` to every Relax function of a copy of `mod`."""
    out = ir.IRModule(dict(mod.functions.items()), attrs=mod.attrs)
    for gv, func in mod.functions.items():
        if isinstance(func, relax.Function):
            log.function = name_of(gv)
            out.update_func(out.get_global_var(log.function), rewrite(func, log))
    return out


def name_of(gv: ir.GlobalVar) -> str:
    """A global variable's name."""
    return str(gv.name_hint)


def variables(expr: Expr) -> list[relax.Var]:
    """The variables that an expression (not its sub-bindings) reads."""
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, relax.Call):
        return [v for a in expr.args for v in variables(a)]
    if isinstance(expr, relax.Tuple):
        return [v for f in expr.fields for v in variables(f)]
    if isinstance(expr, relax.TupleGetItem):
        return variables(expr.tuple_value)
    return []


def substitute(expr: Expr, new: dict[relax.Var, Expr]) -> Expr:
    """`expr` with variables replaced; types are inferred again when it is emitted."""
    if isinstance(expr, relax.Var):
        return new.get(expr, expr)
    if isinstance(expr, relax.Call):
        args = [substitute(a, new) for a in expr.args]
        return relax.Call(expr.op, args, expr.attrs, expr.ty_args)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([substitute(f, new) for f in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(substitute(expr.tuple_value, new), expr.index)
    return expr


def _bindings(func: relax.Function) -> Iterator[tuple[relax.Var, Expr]]:
    blocks = func.body.blocks
    if len(blocks) != 1 or not isinstance(blocks[0], relax.DataflowBlock):
        raise ValueError(
            "a straight-line function has exactly one dataflow block: run these passes before ToNonDataflow"
        )
    for binding in blocks[0].bindings:
        if not isinstance(binding, relax.VarBinding):
            raise ValueError(f"only plain bindings are straight-line, found {type(binding).__name__}")
        yield binding.var, binding.value
