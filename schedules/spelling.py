"""What TVM's source printers get wrong, put so that they get it right."""

from __future__ import annotations

from typing import Any

import numpy as np

from .compat import T, ir, tirx, tvm_ffi


def spelled(body: Any) -> Any:
    """Statements that TVM's source printers spell right.

    They print six digits behind the point of a constant, so others become their bits; and they keep names that a language reserves
    (half, new, shared), of which none ends in an underscore.
    """
    renamed: dict[Any, Any] = {}

    def name(node: Any) -> None:
        var = node.loop_var if isinstance(node, tirx.For) else node.var
        renamed[var] = tirx.Var(f"{var.name}_", str(var.ty))

    def array(node: Any) -> None:
        old = node.buffer
        renamed[old] = tirx.decl_buffer(list(old.shape), str(old.dtype), f"{old.name}_", layout=None)

    def exact(value: Any, _mutator: object = None) -> Any:
        number, printed = np.float32(value.value), np.float32(f"{value.value:.6e}")
        if str(value.ty) != "float32" or (np.isfinite(number) and printed == number):
            return value
        return T.reinterpret("float32", tirx.const(int(number.view(np.uint32)), "uint32"))

    tvm_ffi.structural_walk(body, ((tirx.For, name), (tirx.Bind, name), (tirx.AllocBuffer, array)))
    other = (ir.Var, lambda var, _mutator=None: renamed.get(var, var))
    return tvm_ffi.structural_map(body, ((tirx.FloatImm, exact), other), order="pre")
