"""Lowering, step 4: loops and blocks of s_tir, one nest for each iteration or fused group."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from ....schedules.compat import IRBuilder, T, ir_builder, tirx
from ..axes import INDEX, Axis, Buffer, Point, Value, index
from ..expr import substitute
from ..iteration import Fused, Iteration, Program
from ..monoid import monoid
from ..tensor import Tensor
from .access import Search, on_walk, points, row_local_index
from .groups import Group, groups

Env = dict[Any, Value]


def emit(program: Program) -> Any:
    """The program as a PrimFunc of ordinary s_tir blocks."""
    emitter = _Emitter(program)
    with IRBuilder() as builder, ir_builder.prim_func(s_tir=True):
        T.func_name(program.name)
        T.func_attr({"tirx.noalias": True})
        for param in program.params:
            buffer = param.data if isinstance(param, Tensor) else param
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
        nest = [[a for a in group if a not in env] for group in groups(it, out)]
        nest = [group for group in nest if group] or [[]]
        env = dict(env)
        reduces = any(it.is_reduction(a) for group in nest for a in group)
        kind = monoid(it.combine) if it.combine else None
        with ExitStack() as stack:
            for n, group in enumerate(nest[:-1]):
                self._block(stack, it, group, env, f"{it.name}_o{n}")
            self._block(stack, it, nest[-1], env, it.name)

            def allocate(name: str) -> Buffer:
                array = T.sblock_alloc_buffer((1,), INDEX, scope="local")
                IRBuilder.name(f"{it.name}_{name}", array)
                return array

            at = points(it.walk, env) if it.walk else []
            search = Search(allocate)
            target = self._rewrite(it, it.out, env, at, shared, search)
            if kind and reduces and not it.accumulate:
                with T.init():
                    T.buffer_store(target.source, kind.identity(out.dtype), list(target.indices))
            value = self._rewrite(it, it.value, env, at, shared, search)
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
                self._block(stack, first, group, env, name, rows=True)
            used = {it.out.source for it in step.iterations}
            for tensor in self.tensors.values():
                if tensor.row_local and tensor.logical in used:
                    shape = (*tensor.tail, tensor.row_local) if tensor.fmt else tensor.shape
                    self.local[tensor.logical] = T.sblock_alloc_buffer([index(s) for s in shape], tensor.dtype)
                    IRBuilder.name(tensor.name, self.local[tensor.logical])
            for it in step.iterations:
                self.iteration(it, env, step.levels)

    def _block(self, stack: ExitStack, it: Iteration, group: Group, env: Env, name: str, rows: bool = False) -> None:
        """Open loops over the axes of a group and the block inside them; binds the axes in `env`."""
        loops = []
        for axis in group:
            extent = self._extent(it, axis, env)
            loops.append((axis, extent, stack.enter_context(T.serial(extent))))
        stack.enter_context(T.sblock(name))
        for axis, extent, loop in loops:
            make = T.axis.reduce if it.is_reduction(axis) and not rows else T.axis.spatial
            variable = make(extent, loop, dtype=INDEX)
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

    def _rewrite(self, it: Iteration, expr: Any, env: Env, at: Sequence[Point], shared: int, search: Search) -> Any:
        """An expression of logical coordinates as one of positions."""
        variables = {v: env[v] for v in it.free}
        if it.walk:
            variables |= dict(zip(it.coords, it.walk.coords(*at), strict=True))
        sources: dict[Any, Any] = {}
        for logical, tensor in self.tensors.items():
            if tensor.fmt is None and tensor.row_local:
                sources[logical] = lambda new, old, t=tensor: self.local[t.logical][tuple(new)]
            elif tensor.fmt is not None:
                sources[logical] = lambda new, old, t=tensor: self._access(it, t, at, new, old, shared, search)
        return substitute(expr, variables, sources)

    def _access(
        self,
        it: Iteration,
        tensor: Tensor,
        at: Sequence[Point],
        new: Sequence[Value],
        old: Sequence[Value],
        shared: int,
        search: Search,
    ) -> Any:
        assert tensor.fmt is not None
        ndim = tensor.fmt.ndim
        if not on_walk(it, tensor, old):
            return search.load(tensor, new[:ndim], new[ndim:])
        if tensor.data is not None:
            return tensor.data[(*tensor.fmt.position(at), *new[ndim:])]
        return self.local[tensor.logical][(*new[ndim:], row_local_index(tensor.fmt, at, shared))]
