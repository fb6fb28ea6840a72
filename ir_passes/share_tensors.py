"""One tensor for each place in planned memory, instead of one for each op that writes there.

Memory planning gives the layers of a model the same few storages again and again, but makes a tensor anew at every use, wraps
results in tuples that are taken apart at once, and says where each thing was used last. All of that became instructions of the
virtual machine: half of a model's bytecode.

    storage = alloc_storage(s)                              storage = alloc_storage(s)
    a = alloc_tensor(storage, 0, [n, 896])                  a = alloc_tensor(storage, 0, [n, 896])
    f(x, a); t = (a, b); y = t[0]; g(y, c)          ->      f(x, a); g(a, c)
    kill_tensor(a)                                          f(z, a)
    d = alloc_tensor(storage, 0, [n, 896]); f(z, d)
    kill_tensor(d); kill_storage(storage)

A function gives all of it back when it returns; before that the plan alone says what may be written where.
"""

from __future__ import annotations

import dataclasses

from ..schedules.compat import ir, relax, tvm_ffi
from .passes import PassLog
from .straightline import Expr, rewrite_functions, substitute, variables

ALLOC_TENSOR = ir.Op.get("relax.memory.alloc_tensor")
KILLS = (ir.Op.get("relax.memory.kill_tensor"), ir.Op.get("relax.memory.kill_storage"))


@dataclasses.dataclass(frozen=True)
class ShareTensors:
    """Runs behind StaticPlanBlockMemory. A function that branches or matches shapes in its body stays as it is."""

    name: str = "share_tensors"

    def __call__(self, mod: ir.IRModule, log: PassLog) -> ir.IRModule:
        return rewrite_functions(mod, log, _share)


class _Walk:
    """The bindings of one function so far, with what old variables have become."""

    def __init__(self) -> None:
        self.builder = relax.BlockBuilder()
        self.bindings: list[tuple[relax.Var, Expr]] = []
        self.new: dict[relax.Var, Expr] = {}
        self.tuples: dict[relax.Var, relax.Tuple] = {}
        self.tensors: dict[tuple[relax.Var, str, str], list[tuple[relax.Var, Expr]]] = {}
        self.shared = 0

    def renewed(self, expr: Expr) -> Expr:
        """An old expression in terms of the new variables; types stay as they were."""
        if not any(v in self.new for v in variables(expr)):
            return expr
        fresh = substitute(expr, self.new)
        if isinstance(fresh, relax.Call):
            return relax.Call(fresh.op, fresh.args, fresh.attrs, fresh.ty_args, ret_ty=expr.ty)
        return self.builder.normalize(fresh)

    def visit(self, var: relax.Var, old: Expr) -> None:
        """Bind `var`, or note what it is already."""
        value = self.renewed(old)
        if isinstance(value, relax.Call) and value.op in KILLS:
            return
        same = self.known(var, value)
        if same is not None:
            self.new[var] = same
        else:
            self.bindings.append((var, value))

    def known(self, var: relax.Var, value: Expr) -> Expr | None:
        """What has this value already."""
        if isinstance(value, relax.Var):
            return value
        if isinstance(value, relax.Tuple):
            self.tuples[var] = value
        elif isinstance(value, relax.TupleGetItem) and value.tuple_value in self.tuples:
            return self.tuples[value.tuple_value].fields[value.index]
        elif isinstance(value, relax.Call) and value.op == ALLOC_TENSOR:
            storage, offset, shape, dtype = value.args[:4]
            alike = self.tensors.setdefault((storage, str(offset), str(dtype)), [])
            for tensor, its_shape in alike:
                if tvm_ffi.structural_equal(shape, its_shape):
                    self.shared += 1
                    return tensor
            alike.append((var, shape))
        return None

    def used(self, result: Expr) -> list[relax.Binding]:
        """The bindings without tuples, and elements of tuples, that nobody needs."""
        kept, live = [], set(variables(result))
        for var, value in reversed(self.bindings):
            if var in live or not isinstance(value, relax.Tuple | relax.TupleGetItem):
                live.update(variables(value))
                kept.append(relax.VarBinding(var, value))
        return kept[::-1]


def _share(func: relax.Function, log: PassLog) -> relax.Function:
    bindings = [binding for block in func.body.blocks for binding in block.bindings]
    plain = [isinstance(b, relax.VarBinding) and not isinstance(b.value, relax.If | relax.Function) for b in bindings]
    if not all(plain):
        log.missed(log.function, "its body branches, matches shapes or has functions")
        return func
    walk = _Walk()
    for binding in bindings:
        walk.visit(binding.var, binding.value)
    result = walk.renewed(func.body.body)
    body = walk.builder.normalize(relax.SeqExpr([relax.BindingBlock(walk.used(result))], result))
    log.matched(f"{log.function}: {walk.shared} tensors shared")
    out = relax.Function(func.params, body, func.ret_ty, is_pure=func.is_pure)
    return out.with_attrs(dict(func.attrs.items())) if func.attrs else out
