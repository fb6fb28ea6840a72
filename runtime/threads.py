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
    """Use `count` threads in compiled code that this thread calls; takes effect at once, also after earlier calls."""
    os.environ["TVM_NUM_THREADS"] = str(count)
    os.environ["TVM_BIND_THREADS"] = "0"
    # Mode 1 prefers big cores; with a count it sizes the pool of the calling thread, whether it exists yet or not.
    global_function("runtime.config_threadpool")(1, count)
