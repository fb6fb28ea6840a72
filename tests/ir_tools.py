"""Building, comparing and running small dialect functions in tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from heddle.ir_passes.passes import PassLog
from heddle.runtime.tvm import to_numpy
from heddle.schedules.compat import TensorType, ir, relax, tirx, tvm
from heddle.schedules.target import TargetProfile, profile_scope, resolve_target

Param = tuple[str, Sequence[Any], str]


def function(params: Sequence[Param], body: Callable[..., Any], *, num_input: int, name: str = "main") -> ir.IRModule:
    """A module with one dataflow function.

    `params` are (name, shape, dtype); a str in a shape is a symbolic dimension. `body(emit, *vars)` returns the result;
    `emit(expr)` binds an expression.
    """
    dims: dict[str, tirx.Var] = {}

    def extent(d: Any) -> Any:
        return dims.setdefault(d, tirx.Var(d, "int64")) if isinstance(d, str) else d

    variables = [relax.Var(n, TensorType([extent(d) for d in shape], dtype)) for n, shape, dtype in params]
    builder = relax.BlockBuilder()
    with builder.function(name, variables, attrs={"num_input": num_input}):
        with builder.dataflow():
            output = builder.emit_output(body(builder.emit, *variables))
        builder.emit_func_output(output)
    return builder.finalize()


def apply(module_pass: Any, mod: ir.IRModule, profile: TargetProfile | None = None) -> tuple[ir.IRModule, PassLog]:
    """A pass applied under a target profile, its result checked for well-formedness."""
    log = PassLog(phase=module_pass.name)
    with profile_scope(profile or resolve_target()):
        out = module_pass(mod, log)
    relax.analysis.well_formed(out)
    return out, log


def assert_equal(actual: ir.IRModule, expected: ir.IRModule) -> None:
    """Structural equality of every function; names of variables do not matter, shared parameters do."""
    tvm.ir.assert_structural_equal(strip(actual), strip(expected), map_free_vars=True)


def strip(mod: ir.IRModule) -> ir.IRModule:
    """The functions alone, without module attributes."""
    return ir.IRModule({gv.name_hint: f for gv, f in mod.functions.items()})


def run(
    mod: ir.IRModule, arrays: Sequence[np.ndarray], name: str = "main", profile: TargetProfile | None = None
) -> Any:
    """Legalize, build and run a function; the result as NumPy (a list for tuples). In-place arguments are changed."""
    profile = profile or resolve_target()
    with profile_scope(profile), profile.tvm_target():
        mod = relax.transform.LegalizeOps()(mod)
        executable = relax.build(mod, target=profile.tvm_target(), relax_pipeline=relax.get_pipeline("default_build"))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    result = machine[name](*(as_tensor(a) for a in arrays))
    return to_numpy(result) if hasattr(result, "shape") else [to_numpy(r) for r in result]


def as_tensor(array: np.ndarray) -> Any:
    """An aligned copy as a TVM tensor; bfloat16 keeps its type."""
    if array.dtype.name == "bfloat16":
        bits = tvm.runtime.tensor(np.ascontiguousarray(array).view(np.uint16))
        return bits._create_view(array.shape, "bfloat16")
    return tvm.runtime.tensor(np.ascontiguousarray(array))


def normal(rng: np.random.Generator, *shape: int, dtype: str = "float32") -> np.ndarray:
    """Gaussian values of a stored dtype."""
    return rng.standard_normal(shape, dtype=np.float32).astype(dtype)
