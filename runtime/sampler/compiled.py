"""The sampler's kernels as an artifact's library has them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..manifest import EDIT_FUNCTION, MASK_FUNCTION, RANK_FUNCTION, SAMPLE_FUNCTION
from ..tvm import ALIGNMENT, Library, empty, tensor
from .sampler import Sampler, SamplerKernels

Kernel = Callable[..., object]


def compiled_kernels(choose: Kernel, rank: Kernel, edit: Kernel, mask: Kernel) -> SamplerKernels:
    """Kernels that take tensors, as kernels that take logits and arrays made by `empty`, which are shared, not copied."""

    def over_arrays(kernel: Kernel) -> Kernel:
        return lambda logits, *arrays: kernel(tensor(_aligned(logits)), *map(tensor, arrays))

    shared = [over_arrays(kernel) for kernel in (choose, rank, edit, mask)]
    return SamplerKernels(shared[0], shared[1], shared[2], shared[3], empty, _aligned)


def _aligned(logits: np.ndarray) -> np.ndarray:
    """Logits as compiled code takes them: a runner's are so already, a selection or a slice of them is copied."""
    flags = logits.flags
    if flags.c_contiguous and flags.writeable and logits.ctypes.data % ALIGNMENT == 0:
        return logits
    copied = empty(logits.shape, "float32")
    copied[:] = logits
    return copied


def load_sampler(library: Library) -> Sampler:
    """The sampler of an artifact; ArtifactError where its library has none. One thread at a time may call it."""
    kernels = [library.kernel(name) for name in (SAMPLE_FUNCTION, RANK_FUNCTION, EDIT_FUNCTION, MASK_FUNCTION)]
    return Sampler(compiled_kernels(*kernels))
