"""This machine's limits: how fast it reads memory and multiplies, measured with kernels that TVM generates.

    python benchmarks/limits.py --threads 2

Other benchmarks import `read_rate` and `fma_rate` and report ratios to what they give in the same run.
"""

from __future__ import annotations

import argparse
import functools
import math
import mmap
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

if __name__ == "__main__":
    os.environ.setdefault("TVM_BIND_THREADS", "0")

import numpy as np

from heddle.runtime.features import physical_cores
from heddle.schedules.compat import PrimFunc, T, finish, tvm, tvm_ffi
from heddle.schedules.dot import dot4
from heddle.schedules.target import TargetProfile, resolve_target
from heddle.schedules.vector import fma, lanes, splat

HUGE_PAGE = 2 << 20


def use_cores(threads: int) -> None:
    """Run this process and its kernels on `threads` cores, one thread each. Raises ValueError where there are fewer."""
    cores = physical_cores()
    if not 1 <= threads <= len(cores):
        raise ValueError(f"{threads} threads asked for, but this process may run on {len(cores)} physical cores")
    os.sched_setaffinity(0, cores[:threads])
    tvm_ffi.get_global_func("runtime.config_threadpool")(1, threads)


def allocate(size: int, huge: bool = True) -> np.ndarray:
    """`size` bytes of zeros (already touched) on huge or on 4 kB pages, as uint8."""
    # Private: the system gives shared memory, which is what mmap makes by default, no huge pages.
    region = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    region.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    buffer = np.frombuffer(region, np.uint8)
    start = -buffer.ctypes.data % HUGE_PAGE
    buffer[start : start + size] = 0
    return buffer[start : start + size]


def compiled(func: PrimFunc, target: TargetProfile) -> Callable[..., None]:
    """The kernel, callable with tensors."""
    return tvm.compile(func.with_attr("global_symbol", "main"), target=target.tvm_target())["main"]


def tensor(array: np.ndarray) -> Any:
    """A tensor over the memory of `array`, which must be aligned to 64 bytes."""
    return tvm.runtime.from_dlpack(array)


def seconds(call: Callable[[], object], repeat: int) -> float:
    """Mean seconds of `repeat` calls."""
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - start) / repeat


def _reader(streams: int) -> PrimFunc:
    """Reads data int32 [n, 16] in tasks of 256 kB; a task's `streams` runs lie n / streams apart."""
    steps = (256 << 10) // 64 // streams

    @T.prim_func(private=True, s_tir=True)
    def read(data_: T.handle, out_: T.handle):
        n = T.int64()
        tasks = T.int64()
        data = T.match_buffer(data_, (n, T.int64(16)), "int32", align=64)
        out = T.match_buffer(out_, (tasks, T.int64(16)), "int32", align=64)
        for task in T.parallel(tasks):
            acc = T.alloc_buffer((streams, 16), "int32", scope="global")
            for s in T.unroll(streams):
                acc[s, lanes(0)] = T.broadcast(T.int32(0), 16)
            for i in T.serial(T.int64(steps)):
                for s in T.unroll(streams):
                    T.evaluate(
                        T.call_llvm_intrin(
                            "void",
                            "llvm.prefetch.p0",
                            T.address_of(data[(s * tasks + task) * steps + i + 64, 0]),
                            0,
                            3,
                            1,
                        )
                    )
                    acc[s, lanes(0)] = T.bitwise_xor(acc[s, lanes(0)], data[(s * tasks + task) * steps + i, lanes(0)])
            for s in T.unroll(streams - 1):
                acc[0, lanes(0)] = T.bitwise_xor(acc[0, lanes(0)], acc[s + 1, lanes(0)])
            out[task, lanes(0)] = acc[0, lanes(0)]

    return finish(read)


@functools.cache
def _readers(target: TargetProfile) -> list[Callable[..., None]]:
    return [compiled(_reader(streams), target) for streams in (1, 4, 8)]


def readers(buffer: np.ndarray, target: TargetProfile) -> list[Callable[[], None]]:
    """Calls that each read `buffer` (uint8, rounded down to 256 kB) once, with 1, 4 and 8 streams a thread."""
    tasks = buffer.size // (256 << 10)
    data = tensor(buffer[: tasks * (256 << 10)].view(np.int32).reshape(-1, 16))
    out = tensor(allocate(tasks * 64).view(np.int32).reshape(-1, 16))
    return [functools.partial(read, data, out) for read in _readers(target)]


def read_rate(buffer: np.ndarray, target: TargetProfile, rounds: int = 5) -> float:
    """GB/s of reading `buffer`: the median of `rounds` for each number of streams, of which the best."""
    repeat = max(1, math.ceil((256 << 20) / buffer.size))
    rates = [[buffer.size / seconds(read, repeat) * 1e-9 for _ in range(rounds)] for read in readers(buffer, target)]
    return max(statistics.median(r) for r in rates)


def _multiplier(target: TargetProfile, steps: int) -> PrimFunc:
    """`steps` x count fused multiply-adds of 16 lanes a task, in as many chains as the registers hold."""
    count = (target.vector_registers - 4) * target.vector_bits // 512

    @T.prim_func(private=True, s_tir=True)
    def multiply(factors_: T.handle, out_: T.handle):
        tasks = T.int64()
        factors = T.match_buffer(factors_, (T.int64(2),), "float32", align=64)
        out = T.match_buffer(out_, (tasks, T.int64(count), T.int64(16)), "float32", align=64)
        for task in T.parallel(tasks):
            acc = T.alloc_buffer((count, 16), "float32", scope="global")
            for i in T.unroll(count):
                acc[i, lanes(0)] = splat(T.cast(i, "float32"))
            for _ in T.serial(T.int64(steps)):
                for i in T.unroll(count):
                    acc[i, lanes(0)] = fma(acc[i, lanes(0)], splat(factors[0]), splat(factors[1]))
            for i in T.unroll(count):
                out[task, i, lanes(0)] = acc[i, lanes(0)]

    return finish(multiply)


@functools.cache
def multiplier(target: TargetProfile, threads: int) -> tuple[Callable[[], None], int]:
    """A call of about 5 ms that only multiplies and adds, and its floating point operations (an fma counts as two)."""
    steps = 300_000
    count = (target.vector_registers - 4) * target.vector_bits // 512
    factors, out = np.array([0.999, 1e-9], np.float32), np.empty((threads, count, 16), np.float32)
    arguments = [tvm.runtime.tensor(factors), tvm.runtime.tensor(out)]
    return functools.partial(compiled(_multiplier(target, steps), target), *arguments), threads * steps * count * 32


def _integer_multiplier(target: TargetProfile, steps: int) -> PrimFunc:
    """`steps` x count dot products of four bytes in 16 lanes a task, in as many chains as the registers hold."""
    count = (target.vector_registers - 4) * target.vector_bits // 512

    @T.prim_func(private=True, s_tir=True)
    def multiply(factors_: T.handle, out_: T.handle):
        tasks = T.int64()
        factors = T.match_buffer(factors_, (T.int64(1),), "int32", align=64)
        out = T.match_buffer(out_, (tasks, T.int64(count), T.int64(16)), "int32", align=64)
        for task in T.parallel(tasks):
            acc = T.alloc_buffer((count, 16), "int32", scope="global")
            for i in T.unroll(count):
                acc[i, lanes(0)] = splat(i)
            for _ in T.serial(T.int64(steps)):
                for i in T.unroll(count):
                    acc[i, lanes(0)] = dot4(acc[i, lanes(0)], splat(factors[0]), acc[i, lanes(0)], target)
            for i in T.unroll(count):
                out[task, i, lanes(0)] = acc[i, lanes(0)]

    return finish(multiply)


@functools.cache
def integer_multiplier(target: TargetProfile, threads: int) -> tuple[Callable[[], None], int]:
    """A call of a few ms that only forms dot products of bytes in registers, and its operations (a product counts as two).

    The sums are an operand too: nothing is left of the loop that a compiler could compute once.
    """
    steps = 300_000
    count = (target.vector_registers - 4) * target.vector_bits // 512
    factors, out = np.array([0x01020304], np.int32), np.empty((threads, count, 16), np.int32)
    arguments = [tvm.runtime.tensor(factors), tvm.runtime.tensor(out)]
    call = functools.partial(compiled(_integer_multiplier(target, steps), target), *arguments)
    return call, threads * steps * count * 16 * 4 * 2


def integer_rate(target: TargetProfile, threads: int, rounds: int = 9) -> float:
    """GOP/s of dot products of bytes in registers: the median of `rounds`."""
    call, operations = integer_multiplier(target, threads)
    call()
    return statistics.median(operations / seconds(call, 1) * 1e-9 for _ in range(rounds))


def fma_rate(target: TargetProfile, threads: int, rounds: int = 9) -> float:
    """float32 GFLOP/s of fused multiply-adds in registers: the median of `rounds`."""
    call, flops = multiplier(target, threads)
    call()
    return statistics.median(flops / seconds(call, 1) * 1e-9 for _ in range(rounds))


def main() -> None:
    """Print a table of the limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=min(2, len(physical_cores())))
    parser.add_argument("--megabytes", type=int, nargs="+", default=[8, 512])
    parser.add_argument("--target", default="native")
    options = parser.parse_args()
    use_cores(options.threads)
    target = resolve_target(options.target)
    print(f"{options.threads} threads, {target.name}")
    print(f"float32 fma: {fma_rate(target, options.threads):.0f} GFLOP/s")
    print(f"int8 dot products: {integer_rate(target, options.threads):.0f} GOP/s")
    for megabytes in options.megabytes:
        for huge in (True, False):
            rate = read_rate(allocate(megabytes << 20, huge), target)
            print(f"read {megabytes} MB on {'huge' if huge else '4 kB'} pages: {rate:.1f} GB/s")


if __name__ == "__main__":
    main()
