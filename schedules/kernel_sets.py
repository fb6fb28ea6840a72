"""The form of a kernel that a target's kernel set has: vectors as they are, loops over lanes, or threads.

The registry asks here, once for every kernel, so that factories know of vectors alone.
"""

from __future__ import annotations

from typing import Any

from .block_threads import Device
from .compat import PrimFunc
from .lanes_to_loops import lanes_to_loops
from .loops_to_threads import loops_to_threads
from .target import SIMT, VECTOR, TargetProfile
from .words import in_words

_MATH_H = {"llvm.fma": "fmaf", "llvm.nearbyint": "nearbyintf"}
_NAMES = {"c": _MATH_H, "cuda": _MATH_H, "webgpu": {"llvm.fma": "fma", "llvm.nearbyint": "round"}}
"""What LLVM's functions are called elsewhere. WGSL's `round` takes ties to even; its `fma` may round twice."""


def for_kernel_set(func: PrimFunc, target: TargetProfile) -> PrimFunc:
    """A finished kernel in the form of the target's kernel set. ValueError for what has no such form."""
    if target.kernels == VECTOR:
        return func
    kind = target.kind
    func = lanes_to_loops(func, _NAMES[kind])
    if target.kernels != SIMT:
        return func
    spec: dict[str, Any] = target.tvm_spec()
    web = kind == "webgpu"
    func = in_words(func) if web else func
    shared = spec["max_shared_memory_per_block"]
    device = Device(shared, 2**16 - 1, "storageBarrier", plainly=True) if web else Device(shared, 512 << 10)
    return loops_to_threads(func, device)
