"""A peer library in a process of its own, timed in turns with ours: rounds of both see the same noise."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).parent / "peers" / "serve.py"


class Peer(contextlib.AbstractContextManager["Peer"]):
    """A child process that runs operations of other libraries with `threads` threads.

    It gets `threads` of `cores` that this process does not use, where there are as many: threads of both sides spin for a while
    after their work. Otherwise both share cores, and every round waits until the other side sleeps.
    """

    def __init__(self, threads: int, cores: Sequence[int]) -> None:
        apart = len(cores) >= 2 * threads
        self.pause = 0.0 if apart else 0.4
        mine = cores[threads : 2 * threads] if apart else cores[:threads]
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        env = os.environ | {name: str(threads) for name in names}
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        os.sched_setaffinity(self.process.pid, mine)
        self.folder = tempfile.TemporaryDirectory()

    def __exit__(self, *_: object) -> None:
        self.process.communicate()  # closes its stdin, upon which it ends
        self.folder.cleanup()

    def prepare(self, case: str, arrays: dict[str, np.ndarray]) -> np.ndarray | str:
        """Set a case up and run it once: its result, or why it cannot run here."""
        file = str(Path(self.folder.name) / f"{case}.npz")
        np.savez(file, **arrays)
        answer = self._ask({"case": case, "file": file})
        return str(answer["missing"]) if "missing" in answer else np.load(file + ".out.npy")

    def seconds(self, case: str, repeat: int) -> float:
        """Mean seconds of `repeat` runs."""
        time.sleep(self.pause)
        return float(self._ask({"time": case, "repeat": repeat})["seconds"])

    def _ask(self, request: dict[str, object]) -> dict[str, object]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer process ended with exit code {self.process.wait()}")
        return json.loads(line)
