"""A torch program as the child process leaves it: IR, weights, signature. This process never imports torch."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ...models.checkpoint import Checkpoint, open_checkpoint
from ...models.problems import ModelError, error
from ...models.weights import Parameters, WeightSpec
from ...runtime.errors import HeddleError
from ...runtime.module_manifest import ArrayInfo, DimInfo
from ...schedules.compat import ir
from .files import EXAMPLES, PROGRAM, RESULT, WEIGHTS

LINES = 12  # of the child's standard error that are shown where it dies


@dataclasses.dataclass(frozen=True)
class TorchProgram:
    """An exported module. Its weights are read from the files of the child while these stand.

    `example_inputs` and `example_outputs` are what torch was given and what it gave.
    """

    mod: ir.IRModule
    weights: Checkpoint
    inputs: tuple[ArrayInfo, ...]
    outputs: tuple[ArrayInfo, ...]
    returns: str
    dims: dict[str, DimInfo]
    examples: Checkpoint

    def parameters(self, linears: set[str]) -> Parameters:
        """The weights by name; `linears` are those that are matrices of linears."""
        specs = {
            name: WeightSpec((name,), info.shape, "linear" if name in linears else "vector")
            for name, info in self.weights.tensors.items()
        }
        return Parameters(specs, {name: name for name in specs}, self.weights)

    def example(self, kind: str, index: int) -> np.ndarray:
        """The example `input` or `output` of that index."""
        return self.examples.read(f"{kind}.{index}")


def export_program(source: str | Path, folder: Path) -> TorchProgram:
    """The program that `source` names, exported into `folder` by a process with torch.

    `source` is `file.py:function` or a file saved by torch.export.save. Raises ModelError with all problems that torch, its
    exporter and the translation have with it, HeddleError where the process dies.
    """
    source = str(source)
    path = Path(source if Path(source).is_file() else source.rpartition(":")[0] or source)
    if not path.is_file():
        fix = "give file.py:function, or a program saved by torch.export.save"
        raise ModelError(source, [error("no torch module to export", f"{path} is not a file", fix)])
    command = [sys.executable, "-m", f"{__package__}.child", source, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    result = folder / RESULT
    if done.returncode or not result.is_file():
        tail = "\n".join(done.stderr.strip().splitlines()[-LINES:])
        raise HeddleError(f"the process that exports {source} ended with code {done.returncode}", tail)
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    if "problems" in found:
        raise ModelError(source, [error(*problem) for problem in found["problems"]])
    return TorchProgram(
        mod=ir.load_json((folder / PROGRAM).read_text(encoding="utf-8")),
        weights=open_checkpoint(folder / WEIGHTS),
        inputs=_arrays(found["inputs"]),
        outputs=_arrays(found["outputs"]),
        returns=found["returns"],
        dims={name: DimInfo(*bounds) for name, bounds in found["bounds"].items()},
        examples=open_checkpoint(folder / EXAMPLES),
    )


def _arrays(found: list[dict[str, Any]]) -> tuple[ArrayInfo, ...]:
    return tuple(ArrayInfo(array["name"], array["dtype"], tuple(array["shape"])) for array in found)
