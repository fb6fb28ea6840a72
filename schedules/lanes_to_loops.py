"""Finished kernels with explicit vectors as scalar code: a loop over lanes for every statement with vectors.

    y[row, ramp(c, 1, 16)] = fma(x[row, ramp(c, 1, 16)], broadcast(a, 16), v)
    ->
    for lane in 16: y[row, c + lane] = fmaf(x[row, c + lane], a, v[lane])

A vector that a name stands for becomes an array. What crosses lanes is spelled out: reinterpreted words are put together from
bytes or taken apart, halves and interleaved vectors become a choice of the lane, and a reduction goes through an array in the
order of LLVM's (ascending). Every operation is the same as in the lanes, so the bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .compat import PrimFunc, T, finish, intrinsic, ir, s_tir, tirx, tvm, tvm_ffi
from .emit import Value
from .spelling import spelled

LANE = "lane"
"""Annotation of loops over lanes: their iterations are independent of each other."""

_REDUCTIONS: dict[str, Callable[[Value, Value], Value]] = {
    "llvm.vector.reduce.smax": T.max,
    "llvm.vector.reduce.add": lambda a, b: a + b,
    "llvm.vector.reduce.fadd": lambda a, b: a + b,
    "llvm.vector.reduce.or": T.Or,
}
BINARY = (
    *(tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod, tirx.Min, tirx.Max),
    *(tirx.EQ, tirx.NE, tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.And, tirx.Or),
    *(tirx.BitwiseAnd, tirx.BitwiseOr, tirx.BitwiseXor, tirx.LShift, tirx.RShift),
)
"""Expressions of two operands `a` and `b`."""


def lanes_to_loops(func: PrimFunc, names: dict[str, str]) -> PrimFunc:
    """`func` without vectors. `names` gives what the target calls LLVM's fma and nearbyint of float32.

    Raises ValueError for a vector expression that has no scalar form here.
    """
    func = blockless(func)
    return finish(func.with_body(spelled(_Loops(names).statement(func.body))))


def blockless(func: PrimFunc) -> PrimFunc:
    """`func` without blocks: the loops and statements that they stand for."""
    body = func.body
    if isinstance(body, s_tir.SBlockRealize):
        inner: list[object] = []
        tvm_ffi.structural_walk(body.block.body, (s_tir.SBlock, inner.append))
        if not inner and not body.block.alloc_buffers:
            return func.with_body(body.block.body)
    lower = s_tir.transform
    passes = [
        *(lower.CanonicalizeLoop(), lower.LowerInitBlock(), lower.PlanAndUpdateBufferAllocationLocation()),
        *(lower.ConvertBlocksToOpaque(), lower.CompactBufferAllocation(), lower.LowerMatchBuffer()),
        lower.LowerOpaqueBlock(),
    ]
    return tvm.transform.Sequential(passes)(tvm.IRModule({"main": func}))["main"]


def lane_count(value: Value) -> int:
    """How many lanes a value has."""
    dtype = value if isinstance(value, str) else str(value.ty)
    return int(dtype.rpartition("x")[2]) if "x" in dtype else 1


def of_vectors(buffer: Any) -> bool:
    """Whether the elements of a buffer are vectors."""
    return lane_count(str(buffer.dtype)) > 1


def _element(value: Value) -> str:
    return str(value.ty).partition("x")[0]


def element_bits(dtype: str) -> int:
    """The size of a type's elements, in bits."""
    return int("".join(c for c in dtype if c.isdigit()))


class _Loops:
    """One rewriting: arrays that stand for names and for buffers of vectors, and statements that wait to come first."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.arrays: dict[Any, Any] = {}
        self.first: list[Any] = []

    def statement(self, node: Any) -> Any:
        """A statement, with what has to come before it."""
        outer, self.first = self.first, []
        made = self._statement(node)
        made = [*self.first, *(made if isinstance(made, list) else [made])]
        self.first = outer
        return made[0] if len(made) == 1 else tirx.SeqStmt(made)

    def _statement(self, node: Any) -> Any:
        if isinstance(node, tirx.SeqStmt):
            return [self.statement(s) for s in node.seq]
        if isinstance(node, tirx.BufferStore):
            return self._store(node)
        if isinstance(node, tirx.Bind):
            return self._bind(node)
        if isinstance(node, tirx.AllocBuffer):
            return tirx.AllocBuffer(self._buffer(node.buffer), annotations=node.annotations)
        if isinstance(node, tirx.For):
            low, extent = self.scalar(node.min), self.scalar(node.extent)
            vector = node.kind == tirx.ForKind.VECTORIZED
            kind, notes = (tirx.ForKind.SERIAL, {LANE: 1}) if vector else (node.kind, node.annotations)
            return tirx.For(node.loop_var, low, extent, kind, self.statement(node.body), annotations=notes)
        if isinstance(node, tirx.IfThenElse):
            other = None if node.else_case is None else self.statement(node.else_case)
            return tirx.IfThenElse(self.scalar(node.condition), self.statement(node.then_case), other)
        if isinstance(node, tirx.While):
            condition = self.scalar(node.condition)
            if self.first:
                raise ValueError(f"a loop cannot depend on a reduction of lanes: {node.condition}")
            return tirx.While(condition, self.statement(node.body))
        if isinstance(node, tirx.Evaluate):
            return tirx.Evaluate(self.scalar(node.value))
        raise ValueError(f"{type(node).__name__} has no form without vectors")

    def _bind(self, node: Any) -> Any:
        if lane_count(node.value) == 1:
            return tirx.Bind(node.var, self.scalar(node.value))
        array = self._array(str(node.var.name), node.value)
        self.arrays[node.var] = array
        return [tirx.AllocBuffer(array), self._fill(array, node.value)]

    def _store(self, node: Any) -> Any:
        if lane_count(node.value) == 1:
            indices = [self.scalar(i) for i in node.indices]
            return tirx.BufferStore(self._buffer(node.buffer), self.scalar(node.value), indices)
        n, lane = lane_count(node.value), tirx.Var("lane", "int32")
        buffer = self._buffer(node.buffer)
        indices = [self.at(i, lane) for i in node.indices] + ([lane] if of_vectors(node.buffer) else [])
        if self._crosses(node):
            array = self._array("value", node.value)
            done = [tirx.AllocBuffer(array), self._fill(array, node.value)]
            return [*done, self._loop(lane, n, tirx.BufferStore(buffer, array[lane], indices))]
        return self._loop(lane, n, tirx.BufferStore(buffer, self.at(node.value, lane), indices))

    def _crosses(self, node: Any) -> bool:
        """Whether a vector is stored over what other lanes have yet to read."""
        other: list[Any] = []

        def visit(load: Any) -> None:
            if load.source.same_as(node.buffer) and not tvm_ffi.structural_equal(load.indices, node.indices):
                other.append(load)

        tvm_ffi.structural_walk(node.value, (ir.TensorLoad, visit))
        return bool(other)

    def _fill(self, array: Any, value: Value) -> Any:
        lane = tirx.Var("lane", "int32")
        one = self.at(value, lane)
        one = T.cast(one, "int32") if _element(value) == "bool" else one
        return self._loop(lane, lane_count(value), tirx.BufferStore(array, one, [lane]))

    def _loop(self, lane: Any, extent: int, body: Any, notes: dict[str, Any] | None = None) -> Any:
        notes = {LANE: 1} if notes is None else notes
        return tirx.For(lane, T.int32(0), T.int32(extent), tirx.ForKind.SERIAL, body, annotations=notes)

    def _array(self, name: str, value: Value) -> Any:
        dtype = _element(value)
        return tirx.decl_buffer([lane_count(value)], "int32" if dtype == "bool" else dtype, name, layout=None)

    def _buffer(self, buffer: Any) -> Any:
        """The buffer, or what stands for it where its elements are vectors."""
        n = lane_count(str(buffer.dtype))
        if n == 1:
            return buffer
        if buffer not in self.arrays:
            dtype = str(buffer.dtype).partition("x")[0]
            self.arrays[buffer] = tirx.decl_buffer([*buffer.shape, n], dtype, str(buffer.name), layout=None)
        return self.arrays[buffer]

    def scalar(self, expr: Value) -> Value:
        """An expression of one lane; reductions in it become statements that come first."""
        return tvm_ffi.structural_map(expr, (ir.Call, self._scalar_call), order="pre")

    def _scalar_call(self, call: Any, _mutator: object = None) -> Any:
        name = intrinsic(call)
        if name in _REDUCTIONS:
            return self._reduced(name, call)
        if name == "llvm.prefetch":
            return T.int32(0)
        if name == "tirx.reinterpret" and lane_count(call.args[0]) > 1:
            return self._reinterpreted(call, T.int32(0))
        if name in self.names:
            return self._named(name, call, [self.scalar(a) for a in call.args[1:]])
        if name.startswith("llvm."):
            raise ValueError(f"{name} has no form without vectors")
        return call

    def _named(self, name: str, call: Any, args: list[Value]) -> Value:
        """A call of the function that `names` has for an intrinsic: all of them are of float32."""
        if _element(call) != "float32":
            raise ValueError(f"{name} of {_element(call)} has no form without vectors")
        return T.call_pure_extern("float32", self.names[name], *args)

    def _reduced(self, name: str, call: Any) -> Value:
        vector = call.args[-1]
        array, boolean = self._array("lanes", vector), _element(vector) == "bool"
        self.first += [tirx.AllocBuffer(array), self._fill(array, vector)]
        n, dtype = lane_count(vector), str(array.dtype)
        # Arguments are the intrinsic's number, for some a value to begin with, and the vector.
        begin = self.scalar(call.args[1]) if len(call.args) == 3 else None
        total = tirx.decl_buffer([1], dtype, "reduced", layout=None)
        i = tirx.Var("i", "int32")
        skip = 0 if begin is not None else 1
        term = array[i + skip]
        joined = T.bitwise_or(total[0], term) if boolean else _REDUCTIONS[name](total[0], term)
        self.first += [
            tirx.AllocBuffer(total),
            tirx.BufferStore(total, array[0] if begin is None else begin, [T.int32(0)]),
            self._loop(i, n - skip, tirx.BufferStore(total, joined, [T.int32(0)]), {}),
        ]
        return total[0] != T.int32(0) if boolean else total[0]

    def at(self, expr: Value, lane: Value) -> Value:
        """One lane of a vector; what is no vector is the same in all lanes."""
        if lane_count(expr) == 1:
            return self.scalar(expr)
        if isinstance(expr, tirx.Broadcast):
            return self.scalar(expr.value)
        if isinstance(expr, tirx.Ramp):
            base, stride = self.scalar(expr.base), self.scalar(expr.stride)
            wide = T.cast(lane, str(base.ty)) if str(base.ty) != "int32" else lane
            return base + wide * T.cast(stride, str(base.ty))
        if isinstance(expr, ir.TensorLoad):
            return self._load(expr, lane)
        if isinstance(expr, tirx.Var):
            return self._truth(self.arrays[expr][lane], expr)
        if isinstance(expr, BINARY):
            return type(expr)(self.at(expr.a, lane), self.at(expr.b, lane))
        if isinstance(expr, tirx.Not):
            return tirx.Not(self.at(expr.a, lane))
        if isinstance(expr, tirx.Select):
            return tirx.Select(*(self.at(e, lane) for e in (expr.condition, expr.true_value, expr.false_value)))
        if isinstance(expr, tirx.Cast):
            return T.cast(self.at(expr.value, lane), _element(expr))
        return self._call(expr, lane)

    def _truth(self, value: Value, expr: Value) -> Value:
        """Booleans lie in arrays as int32."""
        return value != T.int32(0) if _element(expr) == "bool" else value

    def _load(self, expr: Value, lane: Value) -> Value:
        buffer = self._buffer(expr.source)
        indices = [self.at(i, lane) for i in expr.indices]
        return buffer[tuple([*indices, lane] if of_vectors(expr.source) else indices)]

    def _call(self, expr: Value, lane: Value) -> Value:
        name = intrinsic(expr)
        half = lane_count(expr) // 2
        if name == "tirx.reinterpret":
            return self._reinterpreted(expr, lane)
        if name == "tirx.vectorlow":
            return self.at(expr.args[0], lane)
        if name == "tirx.vectorhigh":
            return self.at(expr.args[0], lane + lane_count(expr))
        if name == "llvm.vector.interleave2":
            even, odd = (self.at(a, T.truncdiv(lane, T.int32(2))) for a in expr.args[1:])
            return tirx.Select(T.truncmod(lane, T.int32(2)) == 0, even, odd)
        if name == "tirx.vectorcombine":
            low, high = (self.at(a, T.truncmod(lane, T.int32(half))) for a in expr.args)
            return tirx.Select(lane < half, low, high)
        if name in self.names:
            return self._named(name, expr, [self.at(a, lane) for a in expr.args[1:]])
        if name.startswith("llvm."):
            raise ValueError(f"{name} has no form without vectors")
        return type(expr)(expr.op, [self.at(a, lane) for a in expr.args], ret_ty=_element(expr))

    def _reinterpreted(self, expr: Value, lane: Value) -> Value:
        """A lane of the same bits seen with other elements, the first one lowest (little-endian)."""
        source, to = expr.args[0], str(expr.ty).partition("x")[0]
        have, want = element_bits(_element(source)), element_bits(to)
        if have == want:
            return _as(self.at(source, lane), to)
        if have > want:  # taken apart
            per, word = have // want, f"uint{have}"
            value = _as(self.at(source, T.truncdiv(lane, T.int32(per))), word)
            shift = T.cast(T.truncmod(lane, T.int32(per)) * T.int32(want), word)
            return _as(T.cast(T.shift_right(value, shift), f"uint{want}"), to)
        per, word = want // have, f"uint{want}"  # put together
        joined: Value = None
        for i in range(per):
            part = T.cast(_as(self.at(source, lane * T.int32(per) + T.int32(i)), f"uint{have}"), word)
            part = T.shift_left(part, tirx.const(have * i, word)) if i else part
            joined = part if joined is None else T.bitwise_or(joined, part)
        return _as(joined, to)


def _as(value: Value, dtype: str) -> Value:
    """The bits of a scalar as another type of the same size."""
    return value if str(value.ty) == dtype else T.reinterpret(dtype, value)
