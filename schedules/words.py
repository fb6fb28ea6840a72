"""Kernels of `lanes_to_loops` for a language whose integers all have 32 bits (WGSL).

A tensor of bytes or of 16-bit integers is read as words: [..., n] uint8 is [..., n / 4] uint32, the first byte lowest, over the
same memory. Narrow values in between are words in range. What has 64 bits gets 32: indices, as a tensor has less than 2**31
elements there anyway, and counts. Tensors of 64-bit integers are refused, and so are stores of less than a word.
"""

from __future__ import annotations

from typing import Any

from .compat import PrimFunc, T, finish, intrinsic, ir, tirx
from .emit import Value
from .lanes_to_loops import BINARY, blockless

WORD = 32
_NARROW = {"int8": 8, "uint8": 8, "int16": 16, "uint16": 16}
_TYPES = {"int8": "int32", "int16": "int32", "int64": "int32", "uint8": "uint32", "uint16": "uint32"}


def in_words(func: PrimFunc) -> PrimFunc:
    """`func` over 32-bit integers. ValueError for a kernel that needs others."""
    func = blockless(func)
    words = _Words()
    params = [words.parameter(param) for param in func.params]
    return finish(PrimFunc(params, words.statement(func.body), func.ret_type, func.attrs))


class _Words:
    """One rewriting: what stands for the names and buffers of a function."""

    def __init__(self) -> None:
        self.made: dict[Any, Any] = {}
        self.parameters: set[Any] = set()

    def parameter(self, param: Any) -> Any:
        """A tensor's view in words, or a number."""
        if not tirx.is_buffer_var(param):
            return self._name(param)
        self.parameters.add(param)
        dtype, name, shape = str(param.dtype), str(param.name), [self.value(d) for d in param.shape]
        if dtype in ("int64", "uint64"):
            raise ValueError(f"{name} is of {dtype}, and there are no 64-bit integers")
        if dtype in _NARROW:
            per, last = WORD // _NARROW[dtype], shape[-1]
            if not isinstance(last, tirx.IntImm) or int(last) % per:
                raise ValueError(f"rows of {name} ({param.shape[-1]} of {dtype}) are no whole words of {WORD} bits")
            shape, dtype = [*shape[:-1], T.int32(int(last) // per)], "uint32"
        return self._array(param, shape, dtype)

    def _array(self, buffer: Any, shape: list[Any], dtype: str) -> Any:
        align = int(buffer.data_alignment)
        self.made[buffer] = tirx.decl_buffer(shape, dtype, str(buffer.name), data_alignment=align, layout=None)
        return self.made[buffer]

    def _name(self, var: Any) -> Any:
        if var not in self.made:
            dtype = str(var.ty)
            self.made[var] = tirx.Var(str(var.name), _TYPES[dtype]) if dtype in _TYPES else var
        return self.made[var]

    def statement(self, node: Any) -> Any:
        """A statement over words."""
        if isinstance(node, tirx.SeqStmt):
            return tirx.SeqStmt([self.statement(s) for s in node.seq])
        if isinstance(node, tirx.AllocBuffer):
            dtype = str(node.buffer.dtype)
            shape = [self.value(d) for d in node.buffer.shape]
            return tirx.AllocBuffer(self._array(node.buffer, shape, _TYPES.get(dtype, dtype)))
        if isinstance(node, tirx.Bind):
            return tirx.Bind(self._name(node.var), self.value(node.value))
        if isinstance(node, tirx.BufferStore):
            dtype = str(node.buffer.dtype)
            if dtype in _NARROW and node.buffer in self.parameters:
                raise ValueError(f"{node.buffer.name} is written in elements of {dtype}, of which several share a word")
            return tirx.BufferStore(
                self.made[node.buffer], self.value(node.value), [self.value(i) for i in node.indices]
            )
        if isinstance(node, tirx.For):
            low, extent = self.value(node.min), self.value(node.extent)
            body = self.statement(node.body)
            return tirx.For(self._name(node.loop_var), low, extent, node.kind, body, annotations=node.annotations)
        if isinstance(node, tirx.While):
            return tirx.While(self.value(node.condition), self.statement(node.body))
        if isinstance(node, tirx.IfThenElse):
            other = None if node.else_case is None else self.statement(node.else_case)
            return tirx.IfThenElse(self.value(node.condition), self.statement(node.then_case), other)
        if isinstance(node, tirx.Evaluate):
            return tirx.Evaluate(self.value(node.value))
        raise ValueError(f"{type(node).__name__} has no form in words")

    def value(self, expr: Value) -> Value:
        """A value whose integers have 32 bits: a narrow one is extended by its sign or by zeros."""
        dtype = str(expr.ty)
        if isinstance(expr, tirx.IntImm):
            return _number(int(expr.value), dtype)
        if isinstance(expr, tirx.FloatImm | ir.StringImm):
            return expr
        if isinstance(expr, tirx.Var):
            return self._name(expr)
        if isinstance(expr, ir.TensorLoad):
            return self._load(expr)
        if isinstance(expr, BINARY):
            if dtype in _NARROW and isinstance(expr, tirx.Add | tirx.Sub | tirx.Mul | tirx.LShift):
                raise ValueError(f"{type(expr).__name__} of {dtype} would not wrap in words")
            return type(expr)(self.value(expr.a), self.value(expr.b))
        if isinstance(expr, tirx.Not):
            return tirx.Not(self.value(expr.a))
        if isinstance(expr, tirx.Select):
            return tirx.Select(*(self.value(e) for e in (expr.condition, expr.true_value, expr.false_value)))
        if isinstance(expr, tirx.Cast):
            value = self.value(expr.value)
            if dtype not in _NARROW:
                return _cast(value, _type(dtype))
            if str(value.ty).startswith("float"):
                value = T.cast(value, "int32")  # a negative number has no uint32
            return _extended(T.cast(value, "uint32"), dtype)
        name, args = intrinsic(expr), [self.value(a) for a in expr.args]
        if name == "tirx.reinterpret":
            if dtype in _NARROW:
                return _extended(_as(args[0], "uint32"), dtype)
            if str(expr.args[0].ty) in _NARROW:
                raise ValueError(f"{expr.args[0].ty} cannot be seen as {dtype} in words")
            return _as(args[0], _type(dtype))
        return type(expr)(expr.op, args, ret_ty=_type(dtype))

    def _load(self, expr: Value) -> Value:
        dtype, indices = str(expr.source.dtype), [self.value(i) for i in expr.indices]
        view = self.made[expr.source]
        if dtype not in _NARROW or expr.source not in self.parameters:
            return view[tuple(indices)]
        bits, last = _NARROW[dtype], indices[-1]
        per = T.int32(WORD // bits)
        word = view[(*indices[:-1], T.truncdiv(last, per))]
        return _extended(T.shift_right(word, T.cast(T.truncmod(last, per) * T.int32(bits), "uint32")), dtype)


def _type(dtype: str) -> str:
    if dtype == "uint64":
        raise ValueError("it computes with uint64, and there are no 64-bit integers")
    return _TYPES.get(dtype, dtype)


def _number(value: int, dtype: str) -> Value:
    wide = _type(dtype)
    if wide == "int32" and not -(2**31) <= value < 2**31:
        raise ValueError(f"it computes with {value}, and there are no 64-bit integers")
    return tirx.const(value, wide)


def _as(value: Value, dtype: str) -> Value:
    return value if str(value.ty) == dtype else T.reinterpret(dtype, value)


def _cast(value: Value, dtype: str) -> Value:
    return value if str(value.ty) == dtype else T.cast(value, dtype)


def _extended(word: Value, dtype: str) -> Value:
    """The low bits of a uint32 as a word in the range of `dtype`."""
    bits = _NARROW[dtype]
    if dtype.startswith("u"):
        return T.bitwise_and(word, T.uint32(2**bits - 1))
    rest = T.int32(WORD - bits)
    return T.shift_right(T.shift_left(T.reinterpret("int32", word), rest), rest)
