"""The TVM names that the runtime needs, and nothing of the compiler.

Loading `tvm_ffi` and `libtvm_runtime.so` alone takes 0.1 s and never maps the compiler library (260 MB); `import tvm` would
take seconds and map it. Where `import tvm` came first (the process also compiles) both paths share the same libraries.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from .errors import ArtifactError, HeddleError

ALIGNMENT = 64
"""Bytes; generated code loads whole vectors, and TVM refuses tensors aligned to less."""

_CPU = 1  # kDLCPU
_POOLED_ALLOCATOR = 2


@contextlib.contextmanager
def without_torch() -> Iterator[None]:
    """Keep `import tvm_ffi` and `import tvm` from importing torch, which both try (2 s, and a clash with TVM's LLVM).

    Inside the block `import torch` raises ImportError; where torch was imported before, nothing is changed.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if sys.modules.get("torch", 0) is None:
            del sys.modules["torch"]


with without_torch():
    import tvm_ffi

Tensor: TypeAlias = Any  # tvm_ffi.Tensor; the package has no types
Array: TypeAlias = Any


def _runtime_library() -> Path:
    """Where libtvm_runtime.so is: `TVM_LIBRARY_PATH`, else inside the installed tvm package (found without importing it)."""
    folders = [Path(p) for p in [os.environ.get("TVM_LIBRARY_PATH")] if p]
    spec = importlib.util.find_spec("tvm")
    if spec is not None:
        folders += [Path(p) / "lib" for p in spec.submodule_search_locations or ()]
    for folder in folders:
        if (folder / "libtvm_runtime.so").is_file():
            return folder / "libtvm_runtime.so"
    raise HeddleError(
        "libtvm_runtime.so was not found",
        f"looked in: {', '.join(map(str, folders)) or 'nowhere (the tvm package is not installed)'}",
        "install apache-tvm, or point TVM_LIBRARY_PATH at the folder that holds libtvm_runtime.so",
    )


def can_compile() -> bool:
    """Whether TVM's compiler is installed beside its runtime: where artifacts only run it may have been left out."""
    return (_runtime_library().parent / "libtvm_compiler.so").is_file()


def global_function(name: str) -> Callable[..., Any]:
    """A function of TVM's global registry; loads the runtime library first. Raises HeddleError where it does not exist."""
    function = tvm_ffi.get_global_func(name, allow_missing=True)
    if function is None:
        # RTLD_GLOBAL: the artifact's library binds to these symbols. Loading it twice is a no-op.
        ctypes.CDLL(str(_runtime_library()), ctypes.RTLD_GLOBAL)
        function = tvm_ffi.get_global_func(name, allow_missing=True)
    if function is None:
        raise HeddleError(f"TVM's runtime has no function {name!r}", "the installed TVM is of another version")
    return function


def tvm_version() -> str:
    """Version of the installed apache-tvm, `""` where only its libraries are deployed."""
    try:
        return version("apache-tvm")
    except PackageNotFoundError:
        return ""


def ffi_version() -> str:
    """Version of the tvm-ffi library in this process."""
    return str(tvm_ffi.__version__)


_loaded: dict[Path, tuple[int, int]] = {}
"""Device and inode of the first library that was loaded from each path."""


def _load(path: Path) -> Any:
    """The library at `path`, also where another one was loaded from there: for dlopen a name stays what it first was."""
    status = path.stat()
    file = status.st_dev, status.st_ino
    if _loaded.setdefault(path, file) == file:
        return tvm_ffi.load_module(str(path))
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / path.name
        link.symlink_to(path)
        return tvm_ffi.load_module(str(link))


class Library:
    """The compiled functions of an artifact behind one virtual machine on the CPU.

    A virtual machine belongs to one thread at a time: TVM keeps a thread pool per calling thread.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()  # an absolute path: a bare file name would be searched in the library path
        global_function("runtime.NumThreads")
        try:
            self._module = _load(self.path)
            self._machine = self._module["vm_load_executable"]()
        except (RuntimeError, AttributeError, OSError) as error:
            raise ArtifactError(
                f"{self.path} cannot be loaded as a compiled library",
                str(error).strip().splitlines()[-1],
                "compile again",
            ) from error
        self._machine["vm_initialization"](_CPU, 0, _POOLED_ALLOCATOR)

    def function(self, name: str) -> Callable[..., Any]:
        """The compiled function `name`: takes and returns tensors. Raises ArtifactError where the library lacks it."""
        if not self._machine.implements_function(name):
            raise ArtifactError(
                f"{self.path.name} has no function {name!r}", "manifest and library disagree", "compile again"
            )
        return self._machine[name]

    def kernel(self, name: str) -> Callable[..., Any]:
        """The kernel `name` by itself: fills the tensors it is given. Raises ArtifactError where the library lacks it."""
        try:
            return self._module.get_function(name, query_imports=True)
        except (AttributeError, RuntimeError) as error:
            raise ArtifactError(
                f"{self.path.name} has no kernel {name!r}", "manifest and library disagree", "compile again"
            ) from error


def short(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which keeps the interpreter's lock from now on while it runs: for what takes microseconds. Where other threads
    of Python are busy (a server's are), it takes longer than that to get the lock back."""
    function.release_gil = False  # type: ignore[attr-defined]
    return function


class ResultMemory:
    """Bounds the memory that results of compiled functions leave behind.

    TVM keeps what is freed for results of the same size alone, and for ever. A server sees every number of rows sooner or
    later: the logits of 1 to 64 rows of 150 thousand tokens are 1.3 GB together. So all of it is given back now and then.
    """

    def __init__(self, most: int) -> None:
        """`most` is how many bytes may be kept, counting two results of each size: one is in use while the next is made."""
        self._most = most
        self._clear = global_function("vm.builtin.memory_manager.clear")
        self._sizes: set[int] = set()
        self._kept = 0

    def expect(self, size: int) -> None:
        """A result of `size` bytes comes next. Costs nothing where one of this size was there since the last clearing."""
        if size in self._sizes:
            return
        if self._kept + 2 * size > self._most:
            self._clear()  # what is in use stays
            self._sizes.clear()
            self._kept = 0
        self._sizes.add(size)
        self._kept += 2 * size


def tensor(array: np.ndarray) -> Tensor:
    """A tensor over the memory of `array`, without a copy (about 0.5 µs).

    `array` must be writable, C-contiguous and aligned to 64 bytes. bfloat16 data is passed as its uint16 storage.
    Raises ValueError where it is not so.
    """
    try:
        return tvm_ffi.from_dlpack(array, require_alignment=ALIGNMENT, require_contiguous=True)
    except (RuntimeError, BufferError, TypeError) as error:
        flags = array.flags
        raise ValueError(
            f"array {array.dtype}{list(array.shape)} cannot be shared with compiled code: it must be writable (is "
            f"{flags.writeable}), contiguous (is {flags.c_contiguous}) and aligned to {ALIGNMENT} bytes (is off by "
            f"{array.ctypes.data % ALIGNMENT}); bfloat16 goes as uint16. {error}"
        ) from error


def to_numpy(value: Tensor) -> np.ndarray:
    """A NumPy view of a CPU tensor, without a copy; it keeps the tensor alive."""
    return np.from_dlpack(value)


def tensor_array(tensors: Iterable[Tensor]) -> Array:
    """Many tensors as one argument, converted once: passing a list converts every element at every call."""
    return tvm_ffi.Array(list(tensors))


def empty(shape: tuple[int, ...], dtype: str | np.dtype) -> np.ndarray:
    """A zeroed NumPy array aligned to 64 bytes, to be shared by `tensor`."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    storage = np.zeros(size + ALIGNMENT, np.uint8)
    start = -storage.ctypes.data % ALIGNMENT
    return np.ndarray(shape, dtype, storage, start)  # not a slice: an empty one forgets where it begins
