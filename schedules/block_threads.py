"""The statements of one block of a GPU's kernel, for its threads: one for each lane.

Every thread runs the code between loops over lanes, on values of its own that are the same in all of them. An array is

- in registers of every thread, all alike, where no loop over lanes writes it;
- spread over the threads, each with the elements of its lane, where every lane keeps to its own;
- in shared memory else.

What one thread writes and others may read stands between barriers, before it for those that still read what was there.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from .compat import Analyzer, T, ir, tirx, tvm_ffi
from .emit import Value
from .lanes_to_loops import LANE, element_bits
from .vector import LANES

ALIKE, SPREAD, SHARED, INNER = "alike", "spread", "shared", "inner"
"""Kinds of arrays; INNER ones belong to one iteration of a loop over lanes."""

_BARRIER = object()


@dataclasses.dataclass(frozen=True)
class Device:
    """What a GPU asks of its kernels.

    A block has at most `shared_bytes` of shared memory, an array of one thread at most `own_bytes`. `storage_barrier` is the
    function that orders accesses to tensors within a block, where the barrier for shared memory does not. `plainly`: it has to
    be seen from the program alone that all threads get to a barrier (WGSL).
    """

    shared_bytes: int
    own_bytes: int
    storage_barrier: str = ""
    plainly: bool = False


@dataclasses.dataclass
class _Uses:
    """How an array is used: the indices of all accesses, with the loop over lanes around each."""

    inner: bool
    reads: list[tuple[Any, Any]] = dataclasses.field(default_factory=list)
    writes: list[tuple[Any, Any]] = dataclasses.field(default_factory=list)


class Threads:
    """The rewriting of a block: `body` for the thread `t`, if it is `possible`."""

    def __init__(self, node: Any, device: Device) -> None:
        self.device = device
        self.t = tirx.Var("t", "int32")
        self.arrays: dict[Any, _Uses] = {}
        self.read: set[Any] = set()
        self.written: set[Any] = set()
        self._collect(node, None)
        self.kinds = {buffer: self._kind(buffer, uses) for buffer, uses in self.arrays.items()}
        self.made = {b: self._made(b) for b in self.kinds}
        self.uncertain = 0  # how many conditions around a statement follow from values that the kernel computes
        self.computed: set[Any] = set()
        shared = [b for b, kind in self.kinds.items() if kind == SHARED]
        self.possible = sum(map(array_bytes, shared)) <= device.shared_bytes
        self.body = self._sequence(self._statements(node))

    def _collect(self, node: Any, loop: Any) -> None:
        """Note all accesses."""
        if isinstance(node, tirx.SeqStmt):
            for statement in node.seq:
                self._collect(statement, loop)
            return
        if isinstance(node, tirx.AllocBuffer):
            self.arrays[node.buffer] = _Uses(loop is not None)
        if isinstance(node, tirx.BufferStore):
            self._note(node.buffer, node.indices, loop, write=True)
        for part in ("value", "condition", "min", "extent", "indices"):
            for load in loads(getattr(node, part, None)):
                self._note(load.source, load.indices, loop, write=False)
        if isinstance(node, tirx.For | tirx.While):
            self._collect(node.body, node if is_lane_loop(node) else loop)
        if isinstance(node, tirx.IfThenElse):
            self._collect(node.then_case, loop)
            if node.else_case is not None:
                self._collect(node.else_case, loop)

    def _note(self, buffer: Any, indices: Any, loop: Any, *, write: bool) -> None:
        uses = self.arrays.get(buffer)
        if uses is None:
            (self.written if write else self.read).add(buffer)
        else:
            (uses.writes if write else uses.reads).append((indices, loop))

    def _kind(self, buffer: Any, uses: _Uses) -> str:
        if uses.inner:
            return INNER
        if all(loop is None for _, loop in uses.writes):
            return ALIKE
        whole = int(buffer.shape[-1]) <= LANES or int(buffer.shape[-1]) % LANES == 0
        own = all(_own(indices, loop) for indices, loop in uses.reads + uses.writes)
        return SPREAD if whole and own else SHARED

    def _made(self, buffer: Any) -> Any:
        kind = self.kinds[buffer]
        shape = list(buffer.shape)
        if kind == SPREAD:
            shape = [*shape[:-1], T.int32(-(-int(shape[-1]) // LANES))]
        return array_in("shared" if kind == SHARED else "local", buffer, shape)

    # ------------------------------------------------------------------------------------------------- statements

    def _sequence(self, statements: list[Any]) -> Any:
        made: list[Any] = []
        for before, statement in zip([None, *statements], statements, strict=False):
            if statement is not _BARRIER:
                made.append(statement)
            elif before is not _BARRIER:
                made += self._barrier()
        return made[0] if len(made) == 1 else tirx.SeqStmt(made) if made else tirx.Evaluate(T.int32(0))

    def _barrier(self) -> list[Any]:
        if self.uncertain and self.device.plainly:
            self.possible = False
        calls = [T.tvm_storage_sync("shared")]
        if self.device.storage_barrier and self.read & self.written:
            calls.append(T.call_extern("void", self.device.storage_barrier))
        return [tirx.Evaluate(call) for call in calls]

    def _statements(self, node: Any) -> list[Any]:
        if isinstance(node, tirx.SeqStmt):
            return [made for statement in node.seq for made in self._statements(statement)]
        if isinstance(node, tirx.AllocBuffer):
            return [tirx.AllocBuffer(self.made[node.buffer])]
        if is_nothing(node):
            return []
        if isinstance(node, tirx.Bind):
            if not self._plain(node.value):
                self.computed.add(node.var)
            return [tirx.Bind(node.var, self._alike(node.value))]
        if isinstance(node, tirx.BufferStore):
            return self._store(node)
        if is_lane_loop(node):
            return self._lanes(node)
        if isinstance(node, tirx.For):
            body = self._under(node.body, node.min, node.extent)
            kind = tirx.ForKind.SERIAL if node.kind == tirx.ForKind.PARALLEL else node.kind
            return [tirx.For(node.loop_var, self._alike(node.min), self._alike(node.extent), kind, body)]
        if isinstance(node, tirx.While):
            return [tirx.While(self._alike(node.condition), self._under(node.body, node.condition))]
        if isinstance(node, tirx.IfThenElse):
            other = None if node.else_case is None else self._under(node.else_case, node.condition)
            return [tirx.IfThenElse(self._alike(node.condition), self._under(node.then_case, node.condition), other)]
        raise ValueError(f"{type(node).__name__} has no form for the threads of a block")

    def _under(self, body: Any, *conditions: Value) -> Any:
        """A body that is reached as the conditions say."""
        uncertain = not all(map(self._plain, conditions))
        self.uncertain += uncertain
        made = self._sequence(self._statements(body))
        self.uncertain -= uncertain
        return made

    def _plain(self, expr: Value) -> bool:
        """Whether a value follows from arguments alone that the kernel does not write."""
        used: list[Any] = []
        tvm_ffi.structural_walk(expr, (ir.Var, used.append))
        return not any(v in self.computed or v in self.arrays or v in self.written for v in used)

    def _store(self, node: Any) -> list[Any]:
        """A store of all threads, each for itself, or of one for all."""
        indices = [self._alike(i) for i in node.indices]
        target = self.made.get(node.buffer, node.buffer)
        made = tirx.BufferStore(target, self._alike(node.value), indices)
        if self.kinds.get(node.buffer) == ALIKE:
            return [made]
        return self._seen(node.buffer, tirx.IfThenElse(self.t == 0, made, None))

    def _lanes(self, node: Any) -> list[Any]:
        """A loop over lanes: each thread does its own."""
        extent = int(node.extent)
        turns = -(-extent // LANES)
        turn = tirx.Var("turn", "int32") if turns > 1 else T.int32(0)
        lane = turn * T.int32(LANES) + self.t if turns > 1 else self.t
        made = _Lane(self, node.loop_var, lane, turn).statement(node.body)
        if extent % LANES:
            made = tirx.IfThenElse(lane < extent, made, None)
        if turns > 1:
            made = tirx.For(turn, T.int32(0), T.int32(turns), tirx.ForKind.SERIAL, made)
        stores: list[Any] = []
        tvm_ffi.structural_walk(node.body, (tirx.BufferStore, lambda s: stores.append(s.buffer)))
        for buffer in stores:
            if self._visible(buffer):
                return self._seen(buffer, made)
        return [made]

    def _visible(self, buffer: Any) -> bool:
        """Whether other threads may read what one writes there."""
        return self.kinds[buffer] == SHARED if buffer in self.kinds else buffer in self.read

    def _seen(self, buffer: Any, store: Any) -> list[Any]:
        return [_BARRIER, store, _BARRIER] if self._visible(buffer) else [store]

    def _alike(self, expr: Value) -> Value:
        """An expression that has the same value in all threads."""
        return substitute(expr, self.made)


class _Lane:
    """The body of a loop over lanes for one thread."""

    def __init__(self, threads: Threads, var: Any, lane: Value, turn: Value) -> None:
        self.threads, self.var, self.lane, self.turn = threads, var, lane, turn

    def statement(self, node: Any) -> Any:
        """The body with the thread's own lane, and its own elements of what is spread."""
        made = tvm_ffi.structural_map(node, ((tirx.BufferStore, self._store), (ir.TensorLoad, self._load)))
        return substitute(made, {**self.threads.made, self.var: self.lane})

    def _indices(self, buffer: Any, indices: Any) -> list[Any] | None:
        if self.threads.kinds.get(buffer) != SPREAD:
            return None
        base = Analyzer().simplify(indices[-1] - T.cast(self.var, str(indices[-1].ty)))
        at = T.truncdiv(base, tirx.const(LANES, str(base.ty))) + T.cast(self.turn, str(base.ty))
        return [*indices[:-1], at]

    def _store(self, node: Any, _mutator: object = None) -> Any:
        indices = self._indices(node.buffer, node.indices)
        return node if indices is None else tirx.BufferStore(self.threads.made[node.buffer], node.value, indices)

    def _load(self, node: Any, _mutator: object = None) -> Any:
        indices = self._indices(node.source, node.indices)
        return node if indices is None else self.threads.made[node.source][tuple(indices)]


def is_nothing(node: Any) -> bool:
    """Whether a statement does nothing: it is what is left of a prefetch."""
    return isinstance(node, tirx.Evaluate) and isinstance(node.value, tirx.IntImm)


def is_lane_loop(node: Any) -> bool:
    """Whether a statement is a loop whose iterations are lanes."""
    return isinstance(node, tirx.For) and LANE in (node.annotations or {})


def loads(node: Any) -> list[Any]:
    """All loads in an expression, or in several."""
    found: list[Any] = []
    for expr in node if isinstance(node, list | tuple) or type(node).__name__ == "Array" else [node]:
        if expr is not None:
            tvm_ffi.structural_walk(expr, (ir.TensorLoad, found.append))
    return found


def substitute(node: Any, values: dict[Any, Any]) -> Any:
    """`node` with other variables and buffers."""
    return tvm_ffi.structural_map(node, (ir.Var, lambda v, _m=None: values.get(v, v)), order="pre") if values else node


def array_in(scope: str, buffer: Any, shape: list[Any] | None = None) -> Any:
    """An array like `buffer` in a scope of memory."""
    return tirx.decl_buffer(shape or list(buffer.shape), str(buffer.dtype), str(buffer.name), scope=scope, layout=None)


def _own(indices: Any, loop: Any) -> bool:
    """Whether the lanes of a loop have the elements with their own number, and all the same indices before it."""
    if loop is None or any(_uses(i, loop.loop_var) for i in indices[:-1]):
        return False
    base = Analyzer().simplify(indices[-1] - T.cast(loop.loop_var, str(indices[-1].ty)))
    if _uses(base, loop.loop_var):
        return False
    return bool(Analyzer().can_prove_equal(T.floormod(base, tirx.const(LANES, str(base.ty))), 0))


def _uses(expr: Value, var: Any) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(expr, (ir.Var, lambda v: found.append(v) if v.same_as(var) else None))
    return bool(found)


def array_bytes(buffer: Any) -> int:
    """The size of an array of constant shape."""
    return math.prod(map(int, buffer.shape)) * element_bits(str(buffer.dtype)) // 8
