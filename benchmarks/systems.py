"""The systems of side_by_side.py and engine.py: where each is installed, what it loads, and its worker process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from checkpoint import FILE as WEIGHTS

PEERS = Path(__file__).parent / "peers"
PREPARED = "prepared.json"


class Unavailable(Exception):
    """A system does not install, build or run here; the message says why."""


@dataclasses.dataclass(frozen=True)
class Environment:
    """Packages that live together; none: the environment of this process. `without` are removed again, `variables` are set
    while installing."""

    name: str = ""
    packages: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class System:
    """One line of the table. `worker` is a script of `peers`; `kv_bytes` are those of an element of its KV cache."""

    name: str
    worker: str
    variant: str
    kv_bytes: int
    build: Environment = Environment()
    run: Environment = Environment()

    @property
    def kind(self) -> str:
        """`heddle`, `prototype`, or `peer`."""
        own = self.worker.partition("_")[0]
        return own if own in ("heddle", "prototype") else "peer"


# torchvision comes along with optimum, and its compiled part does not fit this torch.
OPENVINO_EXPORT = Environment(
    "openvino-export", ("torch==2.13.0", "nncf", "optimum-intel[openvino]"), without=("torchvision",)
)
OPENVINO = Environment("openvino", ("openvino", "openvino-genai"))
ONNXRUNTIME = Environment("onnxruntime", ("onnxruntime", "onnxruntime-genai"))
ONNXRUNTIME_EXPORT = Environment(
    "onnxruntime-export", (*ONNXRUNTIME.packages, "torch==2.13.0", "transformers", "onnx", "onnx_ir")
)
LLAMA_CPP = Environment("llama.cpp", ("gguf", "llama-cpp-python"), variables=(("CMAKE_BUILD_PARALLEL_LEVEL", "2"),))

TWO_LEVEL = "w4a8-g32-2l"
SYSTEMS = (
    System("heddle w4a8, 4-bit head", "heddle", json.dumps({"*": "w4a8", "embed": "w4a8", "lm_head": "w4a8"}), 2),
    System("heddle w4a8, 8-bit head", "heddle", json.dumps("w4a8"), 2),
    System(
        "heddle two-level, 4-bit head", "heddle", json.dumps({"*": TWO_LEVEL, "embed": "w4a8", "lm_head": "w4a8"}), 2
    ),
    System("heddle float16", "heddle", json.dumps(None), 2),
    System("openvino-genai, 8-bit head", "openvino", "head8", 1, OPENVINO_EXPORT, OPENVINO),
    System("openvino-genai, 4-bit head", "openvino", "head4", 1, OPENVINO_EXPORT, OPENVINO),
    System("onnxruntime-genai, 4-bit head", "onnxruntime", "int4", 4, ONNXRUNTIME_EXPORT, ONNXRUNTIME),
    System("llama.cpp Q4_0, 8-bit head", "llama_cpp", "head8", 2, LLAMA_CPP, LLAMA_CPP),
    System("llama.cpp Q4_0, 4-bit head", "llama_cpp", "head4", 2, LLAMA_CPP, LLAMA_CPP),
)
LIMITS = System("limits", "limits", "", 0)


def python_of(environment: Environment, folder: Path) -> str:
    """The interpreter of an environment, which is installed on its first use. Unavailable says why it cannot be."""
    if not environment.name:
        return sys.executable
    home = folder / environment.name
    python, stamp = home / "bin" / "python", home / "installed.json"
    wanted = json.dumps([environment.packages, environment.without])
    if not (stamp.is_file() and stamp.read_text() == wanted):
        if not python.exists():
            venv.create(home, with_pip=True)
        pip, variables = [str(python), "-m", "pip", "-q", "--disable-pip-version-check"], dict(environment.variables)
        output_of([*pip, "install", *environment.packages], folder / f"{environment.name}.log", variables)
        if environment.without:
            output_of([*pip, "uninstall", "-y", *environment.without], folder / f"{environment.name}.log")
        stamp.write_text(wanted)
    return str(python)


def output_of(command: list[str], log: Path, variables: dict[str, str] | None = None) -> str:
    """Standard output of a command; Unavailable with the last line of its messages, all of which are in `log`."""
    with log.open("w") as errors:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | (variables or {}), check=False
        )
    if done.returncode:
        lines = [line for line in log.read_text().splitlines() if line.strip()]
        shown = next((line for line in reversed(lines) if "Error" in line), (lines or ["no message"])[-1])
        raise Unavailable(f"{shown.strip()[:200]} (exit code {done.returncode}; all messages: {log})")
    return done.stdout


def prepared(system: System, checkpoint: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """What the system loads, made by another process than the one that is measured, and what that process said of it.

    Peers keep what they made of the same checkpoint; ours is compiled each time, as its code may have changed.
    """
    name = "".join(c if c.isalnum() else "-" for c in system.name)
    home = folder / "artifacts" / checkpoint.name / name
    said = home / PREPARED
    older = not said.is_file() or said.stat().st_mtime < (checkpoint / WEIGHTS).stat().st_mtime
    if older or system.kind != "peer":
        home.mkdir(parents=True, exist_ok=True)
        python = python_of(system.build, folder)
        command = [python, str(PEERS / f"{system.worker}_worker.py"), "prepare", str(checkpoint), str(home)]
        start = time.perf_counter()
        output = output_of([*command, system.variant], folder / f"{checkpoint.name}-{name}.log")
        said.write_text(json.dumps(json.loads(output) | {"prepare_seconds": time.perf_counter() - start}))
    return home, json.loads(said.read_text())


class Worker(contextlib.AbstractContextManager["Worker"]):
    """A system's process, on `cores`. Between requests it is stopped, so that no thread of it spins."""

    def __init__(self, system: System, folder: Path, home: Path, cores: Sequence[int], context: int) -> None:
        self.system, self.cores, self.log = system, cores, folder / f"serve-{home.name}.log"
        self.disturbance = 0.0
        command = [python_of(system.run, folder), str(PEERS / f"{system.worker}_worker.py"), "serve", str(home)]
        command += [system.variant, "--cores", ",".join(map(str, cores)), "--context", str(context)]
        variables = {name: str(len(cores)) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        with self.log.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | variables,
            )
        try:
            self.load_seconds = float(self._answer()["seconds"])
        except Unavailable:
            self.__exit__()
            raise
        self.process.send_signal(signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # a stopped process does not notice that its input ended
        self.process.communicate()

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request; `disturbance` is then the part of its cores' work that was other processes'.

        Unavailable where the system fails or ends.
        """
        assert self.process.stdin is not None
        before = self._ticks()
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Unavailable(f"its process ended with code {self.process.wait()} (messages: {self.log})") from None
        answer = self._answer()
        self.process.send_signal(signal.SIGSTOP)
        busy, own = (b - a for a, b in zip(before, self._ticks(), strict=True))
        self.disturbance = max(0.0, 1 - own / busy) if busy else 0.0
        return answer

    def _ticks(self) -> tuple[float, float]:
        """Clock ticks that its cores and its process have worked, as Linux counts them."""
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        cores = [list(map(int, line[1:])) for line in lines if line[0] in {f"cpu{core}" for core in self.cores}]
        process = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        # user, nice, system, (idle, waiting,) interrupts; of a process, fields 14 and 15 are user and system.
        return float(sum(sum(c[:3]) + sum(c[5:8]) for c in cores)), float(int(process[11]) + int(process[12]))

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Unavailable(f"its process ended with code {self.process.wait()} (messages: {self.log})")
        answer = json.loads(line)
        if "error" in answer:
            raise Unavailable(f"{answer['error'][:200]} (messages: {self.log})")
        return dict(answer)
