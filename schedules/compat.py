"""The one compile-side module that spells TVM names which have moved between releases.

Pinned to apache-tvm 0.27.0.post1. `tir` became `tirx`, the schedulable part became `s_tir`, `struct_info` became `.ty`,
op registration moved behind a global function. Every other compile-side module imports these names from here, so that an
upgrade is one diff (a test holds this; `runtime/tvm.py` is the runtime's counterpart).
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator
from types import FrameType, ModuleType

from ..runtime.tvm import without_torch

with without_torch():
    import tvm
    from tvm import ir, relax, s_tir, te, tirx
    from tvm.relax import TensorType, expr_functor
    from tvm.relax.frontend import nn
    from tvm.script import tirx as T
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as ir_builder
    from tvm.sym import Analyzer
    from tvm.target import Target
    from tvm.tirx import PrimFunc

import tvm_ffi

__all__ = [
    "Analyzer",
    "IRBuilder",
    "PrimFunc",
    "T",
    "Target",
    "TensorType",
    "dict_attrs",
    "expr_functor",
    "finish",
    "fast_frames",
    "intrinsic",
    "ir",
    "ir_builder",
    "nn",
    "register_op",
    "relax",
    "s_tir",
    "te",
    "tirx",
    "tvm",
    "tvm_ffi",
]


def register_op(name: str, doc: str) -> ir.Op:
    """Register (once) and return a Relax operator of any arity."""
    try:
        return ir.Op.get(name)
    except (AttributeError, RuntimeError, ValueError):
        tvm_ffi.get_global_func("ir.RegisterOp")(name, doc)
    op = ir.Op.get(name)
    op.set_num_inputs(-1)
    return op


def dict_attrs(**attrs: object) -> ir.Attrs:
    """Attributes of a dialect call; values are str, int, float, or lists of them."""
    return ir.make_node("ir.DictAttrs", **attrs)


def intrinsic(call: ir.Call) -> str:
    """What a call of a PrimFunc calls: the name of the op, or of LLVM's intrinsic, whose number the first argument is."""
    name = str(getattr(call.op, "name", ""))
    if name in ("tirx.call_llvm_intrin", "tirx.call_llvm_pure_intrin"):
        return str(tvm_ffi.get_global_func("target.llvm_get_intrinsic_name")(int(call.args[0])))
    return name


def finish(func: PrimFunc) -> PrimFunc:
    """Seal a hand-written kernel for Relax: a root block, no aliasing, no further scheduling or fusion.

    Relax passes abort on a PrimFunc whose body is not an SBlockRealize, and one PrimFunc without `tirx.noalias` can strip
    the aliasing facts of every kernel in the module.
    """
    root = s_tir.SBlock([], [], [], "root", func.body)
    func = func.with_body(s_tir.SBlockRealize([], True, root))
    return func.with_attrs({"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": 8})


@contextlib.contextmanager
def fast_frames() -> Iterator[None]:
    """Parse TVMScript at twice the speed inside this block.

    The parser walks the Python stack for every macro, and `inspect.getmodule` searches all loaded modules for every frame.
    A frame knows its module's name.
    """
    search = inspect.getmodule

    def getmodule(object: object, _filename: str | None = None) -> ModuleType | None:
        if isinstance(object, FrameType):
            return sys.modules.get(object.f_globals.get("__name__", ""))
        return search(object, _filename)

    inspect.getmodule = getmodule
    try:
        yield
    finally:
        inspect.getmodule = search
