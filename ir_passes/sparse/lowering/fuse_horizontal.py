"""Horizontal fusion: the kernels of a decomposition's members become one launch, in which a range of tasks belongs to each.

    launch 2 of 5 blocks, launch 3 of 8 blocks  -->  launch of 13 blocks:  if b < 5 ... else (b - 5) ...

A step after scheduling and after `decompose_inits`, for GPUs: members with few tasks do not fill one, and every launch has its
price. On CPU, one loop of unequal members is dealt out badly and loses; there it is only good for tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ....schedules.compat import PrimFunc, ir, s_tir, tirx, tvm_ffi
from ..errors import SparseError
from ..expr import loads, walk
from ..iteration import Fused, Iteration, Program


def fuse_horizontal(func: PrimFunc, program: Program, names: Sequence[str]) -> PrimFunc:
    """The function with the outermost loops of the named iterations (of `program`, which it was lowered from) made one loop.

    The loop is of the first one's kind (blockIdx.x, parallel or serial). The iterations must be consecutive, of loops of one kind,
    and independent: none reads or writes what another one writes, unless both are disjoint members. SparseError otherwise.
    """
    _independent(program, names)
    root = func.body.block
    nests = list(root.body.seq) if isinstance(root.body, tirx.SeqStmt) else [root.body]
    at = [next((n for n, nest in enumerate(nests) if _is_nest_of(nest, name)), -1) for name in names]
    if not at or -1 in at or at != list(range(at[0], at[0] + len(at))):
        raise SparseError(
            f"{', '.join(names)} are not consecutive loop nests of the function",
            "what stands between them would come before or after all of them",
            "name consecutive iterations in order, and do not rename their blocks",
        )
    members = [nests[n] for n in at]
    kinds = {_kind(member) for member in members}
    if len(kinds) != 1 or None in kinds:
        raise SparseError(
            f"the outermost loops of {', '.join(names)} are of different kinds",
            "they become one loop",
            "schedule them alike (all bound to blockIdx.x, or all parallel)",
        )
    nests[at[0] : at[-1] + 1] = [_merge(members)]
    body = tirx.SeqStmt(nests) if len(nests) > 1 else nests[0]
    block = s_tir.SBlock([], root.reads, root.writes, root.name_hint, body, None, list(root.alloc_buffers))
    return func.with_body(s_tir.SBlockRealize([], True, block))


def _merge(members: Sequence[tirx.For]) -> tirx.For:
    """One loop over the tasks of all members."""
    first = members[0]
    task = tirx.Var("task", first.loop_var.ty)
    starts, total = [], tirx.IntImm(str(first.loop_var.ty), 0)
    for member in members:
        starts.append(total)
        total = total + member.extent
    body = None
    for member, start in reversed(list(zip(members, starts, strict=True))):
        part = _substitute(member.body, {member.loop_var: task - start})
        body = part if body is None else tirx.IfThenElse(task < start + member.extent, part, body)
    binding = first.thread_binding
    if binding is not None:
        binding = tirx.IterVar(
            None, tirx.Var(str(binding.var.name), binding.var.ty), binding.iter_type, binding.thread_tag
        )
    return tirx.For(task, first.min, total, first.kind, body, binding, first.annotations)


def _substitute(body: tirx.Stmt, variables: Mapping[tirx.Var, object]) -> tirx.Stmt:
    """A statement with variables replaced."""
    return tvm_ffi.structural_map(body, (ir.Var, lambda v: variables.get(v, v)), order="pre")


def _is_nest_of(nest: tirx.Stmt, name: str) -> bool:
    """Whether a nest computes an iteration; a decomposed block is called `<iteration>_update`."""
    found: list[s_tir.SBlock] = []
    walk(nest, s_tir.SBlock, found.append)
    return not {str(block.name_hint) for block in found}.isdisjoint({name, f"{name}_update"})


def _kind(nest: tirx.Stmt) -> tuple[int, str] | None:
    if not isinstance(nest, tirx.For):
        return None
    return int(nest.kind), str(nest.thread_binding.thread_tag) if nest.thread_binding is not None else ""


def _independent(program: Program, names: Sequence[str]) -> None:
    its: list[Iteration] = []
    for name in names:
        found = [s for s in program.steps if not isinstance(s, Fused) and s.name == name]
        if not found:
            raise SparseError(
                f"program {program.name} has no iteration {name} to fuse", fix="name iterations of its steps"
            )
        its += found
    for n, it in enumerate(its):
        for other in its[:n] + its[n + 1 :]:
            reads = any(load.source.same_as(it.out.source) for load in loads(other.value))
            both = it.out.source.same_as(other.out.source)
            owned = all(i.walk is not None and i.walk.disjoint for i in (it, other))
            if reads or (both and not owned):
                raise SparseError(
                    f"{it.name} and {other.name} cannot run at the same time: both touch {it.out.source.name}",
                    "tasks of one launch run in any order, and members that are merged would race",
                    "fuse disjoint members only, and launch the others one after another",
                )
