"""How many threads compiled code uses.

TVM's pool belongs to the calling thread and reads its size from the environment when it is first used. It would pin its
workers to the first cores of the machine, whatever the affinity mask says, where those of a second process would stand too; so
its pinning is switched off. Workers inherit the mask of the process: `taskset` decides where they run.
"""

from __future__ import annotations

import os

from .errors import ThreadsError
from .features import physical_cores
from .tvm import global_function


def thread_count(threads: int | None = None) -> int:
    """The number of threads: `threads`, else TVM_NUM_THREADS, else the physical cores of this process's affinity mask."""
    if threads is None:
        text = os.environ.get("TVM_NUM_THREADS")
        if text is None:
            return len(physical_cores())
        try:
            threads = int(text)
        except ValueError:
            raise ThreadsError(
                f"TVM_NUM_THREADS={text!r} is not a number", fix="unset it, or set it to 1 or more"
            ) from None
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ThreadsError(f"threads={threads!r} is not possible", fix="give 1 or more, or None for the physical cores")
    return threads


def set_threads(count: int) -> None:
    """Use `count` threads in compiled code that this thread calls; takes effect at once, also after earlier calls.

    Raises ThreadsError where the pool of this thread has fewer workers: a pool never grows, so it is made with one for
    each physical core (more if `count` is more); those that are not used sleep.
    """
    os.environ["TVM_NUM_THREADS"] = str(count)
    os.environ["TVM_BIND_THREADS"] = "0"
    configure = global_function("runtime.config_threadpool")
    # Mode 1 prefers big cores. Where this thread has no pool yet, the length of the list is its size; otherwise the list
    # changes nothing, as nothing is pinned. The list also overrides TVM_NUM_THREADS until the second call takes that back.
    configure(1, count, [str(core) for core in range(max(count, len(physical_cores())))])
    configure(1, count)
    most = int(global_function("runtime.NumThreads")())
    if most < count:
        raise ThreadsError(
            f"threads={count} is not possible here: this thread's pool has {most}",
            "TVM's pool was made with that many when this thread first called compiled code, and it never grows",
            "ask for the largest count first, set TVM_NUM_THREADS before the process starts, or use another thread",
        )
