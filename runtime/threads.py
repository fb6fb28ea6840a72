"""How many threads compiled code uses, and on which cores they stand.

TVM's pool belongs to the calling thread and reads its size from the environment when it is first used. Its own pinning
ignores the affinity mask of the process, so it is switched off and the threads are pinned here, one per physical core.
"""

from __future__ import annotations

import os
from pathlib import Path

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
    """Use `count` threads in compiled code that this thread calls; takes effect at once, also after earlier calls."""
    os.environ["TVM_NUM_THREADS"] = str(count)
    os.environ["TVM_BIND_THREADS"] = "0"
    # Mode 1 prefers big cores; with a count it sizes the pool of the calling thread, whether it exists yet or not.
    global_function("runtime.config_threadpool")(1, count)


def pin_threads(before: frozenset[int]) -> bool:
    """Pin the workers that were born since `before` (see `tasks`) to one physical core each, leaving the first core free.

    The calling thread stays where the system puts it: threads that it starts later would inherit its pin. Workers spin, so the
    system keeps it off their cores. False, and nothing is changed, where there are no new workers or too few cores.
    """
    cores = physical_cores()
    workers = sorted(tasks() - before)
    if not workers or len(workers) + 1 > len(cores):
        return False
    for task, core in zip(workers, cores[1:], strict=False):
        os.sched_setaffinity(task, {core})
    return True


def tasks() -> frozenset[int]:
    """Identities of this process's threads."""
    try:
        return frozenset(int(entry.name) for entry in Path("/proc/self/task").iterdir())
    except OSError:
        return frozenset()
