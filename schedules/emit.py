"""Statements of a kernel, emitted from plain Python: loops, bindings, stores and local arrays.

TVMScript is parsed from source; a generator that nests loops by the levels of a format has no source to parse. These few
functions wrap TVM's IR builder, the machine under that parser. Expressions are built with `T` and `schedules.vector`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from .compat import IRBuilder, PrimFunc, T, ir_builder, tirx
from .vector import IN_REGISTERS

Value = Any  # a tirx expression, or a Python number
Buffer = Any  # a tirx buffer


def i64(value: Value) -> Value:
    """`value` as an int64 expression."""
    return T.int64(value) if isinstance(value, int) else T.cast(value, "int64")


def buffer(name: str, shape: Sequence[Value], dtype: str, *, align: int = 0) -> Buffer:
    """A parameter buffer; `align` in bytes."""
    return tirx.decl_buffer(list(shape), dtype, name, data_alignment=align or -1, layout=None)


@contextlib.contextmanager
def prim_func(params: Sequence[Value]) -> Iterator[list[PrimFunc]]:
    """Emit a private PrimFunc with these buffers and variables; the list that is yielded holds it afterwards."""
    made: list[PrimFunc] = []
    with IRBuilder() as builder:
        with ir_builder.prim_func(s_tir=True, is_private=True):
            T.func_name("main")
            for param in params:
                T.arg(param.name, param)
            yield made
        made.append(builder.get())


@contextlib.contextmanager
def _named(frame: Any, name: str) -> Iterator[Value]:
    with frame as var:
        IRBuilder.name(name, var)
        yield var


def serial(extent: Value, name: str = "i") -> contextlib.AbstractContextManager[Value]:
    """A loop from 0; loops with a symbolic minimum are miscompiled by TVM 0.27."""
    return _named(T.serial(extent), name)


def unroll(extent: int, name: str = "i") -> contextlib.AbstractContextManager[Value]:
    """A loop of constant extent that is unrolled."""
    return _named(T.unroll(extent), name)


def parallel(extent: Value, name: str = "i") -> contextlib.AbstractContextManager[Value]:
    """A loop whose iterations are dealt to the threads in contiguous runs of equal length."""
    return _named(T.parallel(extent), name)


@contextlib.contextmanager
def when(condition: Value) -> Iterator[None]:
    """Statements under a condition."""
    with T.If(condition), T.Then():
        yield


@contextlib.contextmanager
def otherwise(condition: Value) -> Iterator[None]:
    """Statements under the negation of a condition."""
    with T.If(tirx.Not(condition)), T.Then():
        yield


def let(name: str, value: Value) -> Value:
    """A variable bound to the value for the rest of the scope."""
    var = T.bind(value)
    IRBuilder.name(name, var)
    return var


def settle(name: str, value: Value) -> Value:
    """An int64 value that later statements read from memory.

    TVM's simplifier substitutes what `let` binds; over a chain of conditional values its work grows exponentially.
    """
    array = local(name, (1,), "int64", registers=True)
    store(array, 0, value)
    return array[0]


def store(target: Buffer, index: Sequence[Value] | Value, value: Value) -> None:
    """target[index] = value; a vector index stores a vector."""
    T.buffer_store(target, value, list(index) if isinstance(index, tuple | list) else [index])


def evaluate(value: Value) -> None:
    """A call for its effect."""
    T.evaluate(value)


def local(name: str, shape: Sequence[int], dtype: str = "float32", *, registers: bool = False) -> Buffer:
    """An array of the task. TVM keeps what has at most 1024 bytes on the stack and takes the rest from the thread's pool."""
    array = T.alloc_buffer(
        list(shape), dtype, scope="global", align=64, annotations=IN_REGISTERS if registers else None
    )
    IRBuilder.name(name, array)
    return array
