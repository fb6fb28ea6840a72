"""The dialect's registry: every `heddle.*` Relax op with its inference, legalization, reference, inputs, tolerance and cost.

TVM 0.27 accepts Relax ops registered from Python alone. Models emit these ops, passes match on them and on their attributes,
legalization turns them into calls of kernels from `schedules/`. Tests, `verify`, `explain` and benchmarks read this registry.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...schedules.compat import TensorType, dict_attrs, ir, nn, register_op, relax, tirx
from ...schedules.registry import KERNELS, Tolerance
from ...schedules.target import current_profile

Expr = Any  # a Relax expression
PrimExpr = Any  # an int or a symbolic integer


@dataclasses.dataclass(frozen=True)
class SymbolicCost:
    """Bytes moved at least once and operations (an fma counts as two), as expressions of the symbolic shapes."""

    bytes: PrimExpr
    flops: PrimExpr


@dataclasses.dataclass(frozen=True)
class Sample:
    """One generated call: array arguments, attributes, and scalars already placed in the attributes."""

    arrays: list[np.ndarray]
    attrs: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class DialectOp:
    """One op of the dialect.

    `infer(call)` gives the result type; `legalize(builder, call)` an equivalent expression of kernels (inside a
    `profile_scope`); `reference(*arrays, **attrs)` a tuple of arrays, one per result; `samples(rng, dtype)` calls to test
    with, for every dtype in `dtypes` (of the stored weights or of the KV cache); `cost(call)` a SymbolicCost.
    """

    name: str
    op: ir.Op
    infer: Callable[[relax.Call], Any]
    legalize: Callable[[relax.BlockBuilder, relax.Call], Expr]
    reference: Callable[..., tuple[np.ndarray, ...]]
    samples: Callable[[np.random.Generator, str], list[Sample]]
    tolerance: Tolerance
    cost: Callable[[relax.Call], SymbolicCost]
    dtypes: tuple[str, ...]

    def __call__(self, *args: Expr, **attrs: Any) -> relax.Call:
        """A call of this op on Relax expressions."""
        return relax.Call(self.op, list(args), attrs=dict_attrs(**attrs))

    def emit(self, *args: nn.Tensor, **attrs: Any) -> nn.Tensor:
        """A call on `nn` tensors, emitted into the module that is being traced."""
        return nn.op.wrap_nested(self(*(a._expr for a in args), **attrs), self.name.split(".")[1])

    def matches(self, expr: Expr) -> bool:
        """Whether `expr` is a call of this op."""
        return isinstance(expr, relax.Call) and expr.op == self.op


OPS: dict[str, DialectOp] = {}

WEIGHT_DTYPES = ("float32", "float16", "bfloat16")


def dialect_op(
    name: str,
    doc: str,
    *,
    infer: Callable[[relax.Call], Any],
    legalize: Callable[[relax.BlockBuilder, relax.Call], Expr],
    reference: Callable[..., tuple[np.ndarray, ...]],
    samples: Callable[[np.random.Generator, str], list[Sample]],
    tolerance: Tolerance,
    flops: Callable[[relax.Call], PrimExpr],
    bytes: Callable[[relax.Call], PrimExpr] | None = None,
    dtypes: tuple[str, ...] = ("float32",),
) -> DialectOp:
    """Register `heddle.<name>` with TVM and in OPS. Bytes default to each argument and result once."""
    full = f"heddle.{name}"
    if full in OPS:
        raise ValueError(f"dialect op {full} is registered twice")
    op = register_op(full, doc)
    ir.register_op_attr(full, "FInferType", lambda call, _builder: infer(call))
    ir.register_op_attr(full, "FPurity", True)
    ir.register_op_attr(full, "FLegalize", legalize)

    def cost(call: relax.Call) -> SymbolicCost:
        moved = bytes(call) if bytes else sum_bytes([*call.args, call])
        return SymbolicCost(moved, flops(call))

    OPS[full] = DialectOp(full, op, infer, legalize, reference, samples, tolerance, cost, dtypes)
    return OPS[full]


@dataclasses.dataclass(frozen=True)
class CompileTimeOp:
    """An op on weights that the compiler evaluates itself: it is lifted out of the step and has no kernel."""

    name: str
    op: ir.Op

    def __call__(self, *args: Expr, **attrs: Any) -> relax.Call:
        """A call of this op on Relax expressions."""
        return relax.Call(self.op, list(args), attrs=dict_attrs(**attrs))

    def matches(self, expr: Expr) -> bool:
        """Whether `expr` is a call of this op."""
        return isinstance(expr, relax.Call) and expr.op == self.op


def compile_time_op(name: str, doc: str, *, infer: Callable[[relax.Call], Any]) -> CompileTimeOp:
    """Register `heddle.<name>` with TVM as an op that must be gone before legalization."""
    full = f"heddle.{name}"

    def refuse(_builder: relax.BlockBuilder, call: relax.Call) -> Expr:
        raise ValueError(f"{full} has no kernel: LiftWeights turns it into a parameter, which its argument prevented")

    op = register_op(full, doc)
    ir.register_op_attr(full, "FInferType", lambda call, _builder: infer(call))
    ir.register_op_attr(full, "FPurity", True)
    ir.register_op_attr(full, "FLegalize", refuse)
    return CompileTimeOp(full, op)


def tensor(shape: Sequence[PrimExpr], dtype: str = "float32") -> TensorType:
    """A Relax tensor type."""
    return TensorType(list(shape), dtype)


def shape_of(expr: Expr) -> list[PrimExpr]:
    """The shape of a tensor expression, constants as int."""
    return [int(d) if isinstance(d, tirx.IntImm) else d for d in expr.ty.shape]


def sum_bytes(exprs: Sequence[Expr]) -> PrimExpr:
    """Bytes of all tensors among `exprs` (tuples are opened)."""
    total: PrimExpr = 0
    for expr in exprs:
        types = expr.ty.fields if isinstance(expr.ty, relax.TupleType) else [expr.ty]
        for ty in types:
            if isinstance(ty, TensorType):
                size: PrimExpr = np.dtype(str(ty.dtype).replace("bfloat16", "uint16")).itemsize
                for dim in ty.shape:
                    size = size * dim
                total = total + size
    return total


def attr(call: relax.Call, name: str) -> Any:
    """An attribute as a plain Python value."""
    value = call.attrs[name]
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int | tirx.IntImm):
        return int(value)
    if isinstance(value, tirx.FloatImm):
        return float(value.value)
    return [str(v) if isinstance(v, str) else int(v) for v in value]


def call_kernel(builder: relax.BlockBuilder, func: Any, name: str, args: Sequence[Expr], out: Any) -> relax.Call:
    """Call a kernel whose outputs are newly allocated."""
    return relax.call_tir(builder.add_func(func, name), list(args), out)


def call_kernel_inplace(
    builder: relax.BlockBuilder, func: Any, name: str, args: Sequence[Expr], inplace: Sequence[int], out: Sequence[Any]
) -> relax.Call:
    """Call a kernel that writes some arguments; `inplace` gives for each result its argument, or -1 for a new tensor."""
    return relax.call_tir_inplace(builder.add_func(func, name), list(args), list(inplace), list(out))


def make_kernel(name: str, **params: Any) -> Any:
    """The registered kernel `name` for the current target profile."""
    return KERNELS[name].factory(target=current_profile(), **params)


def kernel_samples(
    name: str, attrs: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> Callable[[np.random.Generator, str], list[Sample]]:
    """Samples of an op that is one kernel: the kernel's own cases, its scalar `layer` argument turned into an attribute."""

    def samples(rng: np.random.Generator, dtype: str) -> list[Sample]:
        found = []
        for case in KERNELS[name].cases:
            if case.params.get("kv_dtype", dtype) != dtype:
                continue
            arrays = KERNELS[name].inputs(rng, **case.params, **case.sizes)
            layers = [int(a) for a in arrays if np.ndim(a) == 0]  # at most one scalar, the layer
            scalars = {"layer": layers[0]} if layers else {}
            found.append(Sample([a for a in arrays if np.ndim(a)], attrs(case.params) | scalars))
        return found

    return samples
