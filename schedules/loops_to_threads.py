"""Kernels of `lanes_to_loops` for a GPU: a block for each iteration of a parallel loop, a thread for each lane.

    for row in parallel(n):                      for row in blockIdx.x: for t in threadIdx.x:
        for lane in 16: s[lane] = ...      ->        s[0] = ...                      (a register of each thread)
        y[row] = s[0] + s[1]                         barrier; if t == 0: y[row] = ...

Block by block, `block_threads` has the rest. A loop whose extent stands in memory is dealt to a fixed number of blocks, and code
outside of parallel loops is a block of its own: kernels run in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .block_threads import Device, Threads, array_bytes, array_in, is_nothing, loads, substitute
from .compat import PrimFunc, T, finish, tirx, tvm_ffi
from .emit import Value
from .lanes_to_loops import blockless
from .vector import LANES

BLOCKS = 256
"""Blocks that share a loop whose extent the host does not know."""

_PARALLEL, _SERIAL, _THREADS = tirx.ForKind.PARALLEL, tirx.ForKind.SERIAL, tirx.ForKind.THREAD_BINDING


def loops_to_threads(func: PrimFunc, device: Device) -> PrimFunc:
    """`func` as kernels of a GPU, with host code that launches them."""
    func = blockless(func)
    return finish(func.with_body(_Host(device).kernels(func.body)))


def _sequence(statements: list[Any]) -> Any:
    if not statements:
        return tirx.Evaluate(T.int32(0))
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)


class _Host:
    """Cuts a function into kernels."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.values: dict[Any, Any] = {}  # names of what only the device can read

    def kernels(self, body: Any) -> Any:
        """Host code that launches the kernels of `body`."""
        statements = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
        arrays = [s.buffer for s in statements if isinstance(s, tirx.AllocBuffer)]
        if arrays and all(isinstance(d, tirx.IntImm) for b in arrays for d in b.shape):
            return self.alone(body)  # small memory of the whole function: one block has it
        made = []
        for statement in statements:
            statement = substitute(statement, self.values)
            if isinstance(statement, tirx.AllocBuffer):
                made.append(tirx.AllocBuffer(statement.buffer))  # memory of the device, which kernels share
            elif isinstance(statement, tirx.Bind):
                if loads(statement.value):
                    self.values[statement.var] = statement.value
                else:
                    made.append(statement)
            elif isinstance(statement, tirx.For) and statement.kind == _PARALLEL:
                made.append(self.parallel(statement, None))
            elif isinstance(statement, tirx.IfThenElse):
                made.append(self.condition(statement))
            elif not is_nothing(statement):
                made.append(self.alone(statement))
        return _sequence(made)

    def condition(self, node: Any) -> Any:
        """A choice of kernels, made by the host where it can."""
        if not loads(node.condition):
            other = None if node.else_case is None else self.kernels(node.else_case)
            return tirx.IfThenElse(node.condition, self.kernels(node.then_case), other)
        inner = node.then_case
        if isinstance(inner, tirx.For) and inner.kind == _PARALLEL and node.else_case is None:
            return self.parallel(inner, node.condition)
        return self.alone(node)

    def alone(self, node: Any) -> Any:
        """A kernel of one block."""
        return self.kernel(T.int32(1), lambda block: node)

    def parallel(self, loop: Any, condition: Value | None) -> Any:
        """A kernel whose blocks are iterations, or share them."""
        if condition is None and not loads(loop.extent):
            return self.kernel(loop.extent, lambda block: substitute(loop.body, {loop.loop_var: block}))

        def shared(block: Value) -> Any:
            step = tirx.Var("step", str(loop.extent.ty))
            rest = loop.extent - block + T.cast(BLOCKS - 1, str(loop.extent.ty))
            body = substitute(loop.body, {loop.loop_var: step * BLOCKS + block})
            turns = T.truncdiv(T.max(rest, T.cast(0, str(rest.ty))), T.cast(BLOCKS, str(rest.ty)))
            made = tirx.For(step, T.cast(0, str(rest.ty)), turns, _SERIAL, body)
            return made if condition is None else tirx.IfThenElse(condition, made, None)

        return self.kernel(T.cast(BLOCKS, str(loop.extent.ty)), shared)

    def kernel(self, blocks: Value, body: Callable[[Value], Any]) -> Any:
        """One kernel; `body` gives its statements for a number of the block."""
        block = tirx.Var("block", str(blocks.ty))
        statements = body(block)
        threads = Threads(statements, self.device)
        own = self.device.own_bytes
        inner, count = (threads.body, LANES) if threads.possible else (one_after_the_other(statements, own), 1)
        return _bound(block, blocks, "blockIdx.x", _bound(threads.t, T.int32(count), "threadIdx.x", inner))


def _bound(var: Any, extent: Value, tag: str, body: Any) -> Any:
    """A loop whose iterations are blocks or threads."""
    name = tirx.IterVar(None, tag, tirx.IterVar.ThreadIndex, tag)
    return tirx.For(var, tirx.const(0, str(extent.ty)), extent, _THREADS, body, thread_binding=name)


def one_after_the_other(node: Any, own_bytes: int) -> Any:
    """Statements of a block for one thread: loops stay loops. ValueError for an array that is too large for it."""
    arrays: dict[Any, Any] = {}

    def allocate(a: Any) -> None:
        if array_bytes(a.buffer) > own_bytes:
            raise ValueError(
                f"{a.buffer.name} has {array_bytes(a.buffer)} bytes, the array of a thread at most {own_bytes}"
            )
        arrays[a.buffer] = array_in("local", a.buffer)

    def loop(f: Any, _m: object = None) -> Any:
        return tirx.For(f.loop_var, f.min, f.extent, _SERIAL if f.kind == _PARALLEL else f.kind, f.body)

    tvm_ffi.structural_walk(node, (tirx.AllocBuffer, allocate))
    return substitute(tvm_ffi.structural_map(node, (tirx.For, loop)), arrays)
