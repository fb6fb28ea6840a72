"""Native programs: TVM's files for an architecture, the runner built with them, and directories that need nothing else."""

from __future__ import annotations

from .runner import Runner, build_runner
from .tvm_files import TvmFiles, tvm_files

__all__ = ["Runner", "TvmFiles", "build_runner", "tvm_files"]
