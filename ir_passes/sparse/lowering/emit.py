"""Lowering, step 4: loops and blocks of s_tir, one nest for each iteration or fused group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from ....schedules.compat import IRBuilder, T, ir_builder, tirx
from ..axes import INDEX, Axis, Buffer, Point, Value, index
from ..expr import loads, substitute
from ..iteration import Fused, Iteration, Program
from ..monoid import monoid
from ..tensor import Tensor
from .access import on_walk, points, row_local_index
from .coverage import reach
from .groups import Group, groups
from .search import Entry, Searched, emit_search, region, searches

Env = dict[Any, Value]


def emit(program: Program) -> Any:
    """The program as a PrimFunc of ordinary s_tir blocks."""
    emitter = _Emitter(program)
    with IRBuilder() as builder, ir_builder.prim_func(s_tir=True):
        T.func_name(program.name)
        T.func_attr({"tirx.noalias": True})
        for param in program.params:
            buffer: Any = param.data if isinstance(param, Tensor) else param
            T.arg(buffer.name, buffer)
        for step in program.steps:
            if isinstance(step, Fused):
                emitter.fused(step)
            else:
                emitter.iteration(step, {})
    return builder.get()


class _Emitter:
    """Emits iterations; `local` maps row-local tensors to the arrays of the block they live in."""

    def __init__(self, program: Program) -> None:
        self.tensors = {t.logical: t for t in program.tensors}
        self.local: dict[Any, Buffer] = {}

    def iteration(self, it: Iteration, env: Env, shared: int = 0) -> None:
        """One iteration; `env` holds the block variables of levels that are bound already."""
        out = self.tensors[it.out.source]
        searched = searches(it, self.tensors, loads(it.value))
        bisected = [s for s in searched if s.bisects]
        nest = [[a for a in group if a not in env] for group in groups(it, out, bisected)]
        if not bisected:
            nest = [group for group in nest if group] or [[]]
        env = dict(env)
        returning = reach(it, out).returning
        reduces = any(it.is_reduction(a) for group in nest for a in group)
        kind = monoid(it.combine) if it.combine else None

        def reduction(axis: Axis | tirx.Var) -> bool:
            return it.is_reduction(axis) or axis in returning

        with ExitStack() as stack:
            for n, group in enumerate(nest[:-1]):
                self._block(stack, it, group, env, f"{it.name}_o{n}", reduction)
            entries = self._search(it, out, bisected, env, shared)
            self._block(stack, it, nest[-1], env, it.name, reduction)
            at = points(it.walk, env) if it.walk else []
            for s in searched:
                if not s.bisects:
                    entries.append((s, emit_search("", s.fmt, self._coordinates(it, s, env, at))))
            target = self._rewrite(it, it.out, env, at, shared, [])
            if kind and reduces and not it.accumulate:
                with T.init():
                    T.buffer_store(target.source, kind.identity(out.dtype), list(target.indices))
            value = self._rewrite(it, it.value, env, at, shared, entries)
            if it.masked and it.walk and it.walk.valid and it.depth is None:
                # Select, not if_then_else, which is not vectorised.
                rest = kind.identity(out.dtype) if kind else tirx.const(0, out.dtype)
                value = tirx.Select(it.walk.valid(*at), value, rest)
            if kind and (it.accumulate or reduces):
                value = kind.combine(target, value)
            T.buffer_store(target.source, value, list(target.indices))

    def fused(self, step: Fused) -> None:
        """Iterations one after another inside one block of their shared levels, with arrays for the row-local tensors."""
        first = step.iterations[0]
        env: Env = {}
        assert first.walk is not None
        with ExitStack() as stack:
            # A level whose extent depends on the one above stands in a block of its own.
            nest: list[Group] = [[]]
            for level in first.walk.levels[: step.levels]:
                if level.variable and nest[-1]:
                    nest.append([])
                nest[-1].append(level)
            for n, group in enumerate(nest):
                name = f"{first.name}_row" if n == len(nest) - 1 else f"{first.name}_row_o{n}"
                self._block(stack, first, group, env, name, lambda _: False)
            used = {it.out.source for it in step.iterations}
            for tensor in self.tensors.values():
                if tensor.row_local and tensor.logical in used:
                    shape = (*tensor.tail, tensor.row_local) if tensor.fmt else tensor.shape
                    self.local[tensor.logical] = T.sblock_alloc_buffer([index(s) for s in shape], tensor.dtype)
                    IRBuilder.name(tensor.name, self.local[tensor.logical])
            for it in step.iterations:
                self.iteration(it, env, step.levels)

    def _block(
        self,
        stack: ExitStack,
        it: Iteration,
        group: Group,
        env: Env,
        name: str,
        reduction: Callable[[Axis | tirx.Var], bool],
    ) -> None:
        """Open loops over the axes of a group and the block inside them; binds the axes in `env`."""
        loops = []
        for axis in group:
            extent = self._extent(it, axis, env)
            loops.append((axis, extent, stack.enter_context(T.serial(extent))))
        stack.enter_context(T.sblock(name))
        for axis, extent, loop in loops:
            variable = (T.axis.reduce if reduction(axis) else T.axis.spatial)(extent, loop, dtype=INDEX)
            IRBuilder.name(f"v_{axis.name}", variable)
            IRBuilder.name(str(axis.name), loop)
            env[axis] = variable

    def _extent(self, it: Iteration, axis: Axis | tirx.Var, env: Env) -> Value:
        if not isinstance(axis, Axis):
            return index(it.free[axis])
        if not axis.variable:
            return axis.extent(index(0))
        assert it.walk is not None
        n = it.walk.levels.index(axis)
        return axis.extent(points(it.walk, env, n)[-1].pos if n else index(0))

    def _search(
        self, it: Iteration, out: Tensor, bisected: Sequence[Searched], env: Env, shared: int
    ) -> list[tuple[Searched, Entry]]:
        """Emit the searches in front of the innermost block."""
        if not bisected:
            return []
        # What the block around them reads depends on arrays of its own, so it cannot be inferred.
        sources = {load.source for e in (it.value, *it.out.indices) for load in loads(e)}
        tensors = [self.tensors[s] for s in sources if s in self.tensors]
        formats = [fmt for fmt in (it.walk, *(t.fmt for t in tensors)) if fmt is not None]
        held = [s for s in sources if s not in self.tensors] + [b for fmt in formats for b in fmt.aux]
        held += [self._storage(t) for t in (*tensors, *([out] if it.combine else []))]
        T.reads(*(region(b) for b in dict.fromkeys(held)))
        T.writes(region(self._storage(out)))
        at = points(it.walk, env) if it.walk else []
        return [
            (s, emit_search(f"{it.name}_find{n}", s.fmt, self._coordinates(it, s, env, at)))
            for n, s in enumerate(bisected)
        ]

    def _coordinates(self, it: Iteration, searched: Searched, env: Env, at: Sequence[Point]) -> list[Value]:
        return [self._rewrite(it, c, env, at, 0, []) for c in searched.coordinates]

    def _storage(self, tensor: Tensor) -> Buffer:
        return self.local[tensor.logical] if tensor.row_local else tensor.data

    def _rewrite(
        self,
        it: Iteration,
        expr: Any,
        env: Env,
        at: Sequence[Point],
        shared: int,
        entries: Sequence[tuple[Searched, Entry]],
    ) -> Any:
        """An expression of logical coordinates as one of positions."""
        variables = {v: env[v] for v in it.free if v in env}
        if it.walk:
            variables |= dict(zip(it.coords, it.walk.coords(*at), strict=True))
        sources: dict[Any, Any] = {}

        def access(tensor: Tensor, new: Sequence[Value], old: Sequence[Value]) -> Value:
            assert tensor.fmt is not None
            ndim = tensor.fmt.ndim
            if not on_walk(it, tensor, old):
                return next(e for s, e in entries if s.is_for(tensor, old[:ndim])).read(tensor, new[ndim:])
            if tensor.data is not None:
                return tensor.data[(*tensor.fmt.position(at), *new[ndim:])]
            return self.local[tensor.logical][(*new[ndim:], row_local_index(tensor.fmt, at, shared))]

        for logical, tensor in self.tensors.items():
            if tensor.fmt is None and tensor.row_local:
                sources[logical] = lambda new, old, t=tensor: self.local[t.logical][tuple(new)]
            elif tensor.fmt is not None:
                sources[logical] = lambda new, old, t=tensor: access(t, new, old)
        return substitute(expr, variables, sources)
