"""Commands of documentation pages, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from .conftest import ROOT


def commands(page: str) -> str:
    """All blocks of a page that are marked `sh`, as one script."""
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL))


def run_commands(page: str, folder: Path, **environment: str) -> str:
    """Run them in `folder`, where `examples` is; the first that fails ends it. Returns what they print."""
    (folder / "examples").symlink_to(ROOT / "examples")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = commands(page)
    assert script, f"{page} has no block of commands marked sh"
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{page}: {done.stderr[-4000:]}"
    return done.stdout
