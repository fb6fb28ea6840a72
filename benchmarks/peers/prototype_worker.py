"""A folder with another engine on the same compiler, as a worker of side_by_side.py (`--prototype`). Its variant is that folder.

The folder has modules `model` (QWEN, LLAMA1B, build) and `engine` (make_weights, Engine).
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TVM_BIND_THREADS", "0")

import protocol

LIBRARY = "steps.so"
CHUNK = 512


def _config(folder: Path, variant: str) -> Any:
    sys.path.insert(0, variant)
    import model

    named = {"qwen2": model.QWEN, "llama": model.LLAMA1B}[json.loads((folder / "kind.json").read_text())]
    return dataclasses.replace(named, per_token=True, two=True)


def prepare(checkpoint: Path, folder: Path, variant: str) -> dict[str, Any]:
    """Build its step functions; its weights are random numbers of its own."""
    kind = json.loads((checkpoint / "config.json").read_text())["model_type"]
    (folder / "kind.json").write_text(json.dumps(kind))
    config = _config(folder, variant)
    import model

    model.build(config).export_library(str(folder / LIBRARY))
    weights = model.weight_specs(config)
    # Codes of 4 bits, and for each group of 32 a scale in float16 (one row) or in 8 bits (many rows).
    size = sum(n * k // 2 + n * k // 32 * 2 if k else 4 * n for _, _, n, k in weights)
    return {"stored": size, "streamed": size}


class Prototype:
    """Its engine with enough pages for one context and eight sequences."""

    def __init__(self, folder: Path, variant: str, threads: int, context: int) -> None:
        os.environ["TVM_NUM_THREADS"] = str(threads)
        config = _config(folder, variant)
        import engine

        self.engine = engine.Engine(config, str(folder / LIBRARY), engine.make_weights(config), context // 8)
        self.calls = 0

    def generate(self, prompts: protocol.Prompts, count: int) -> protocol.Timing:
        names = list(range(len(prompts)))
        for pages in self.engine.pt.values():
            self.engine.free.extend(pages)
        self.engine.pt.clear()
        self.engine.len.clear()
        tokens = prompts

        def step() -> None:
            nonlocal tokens
            if len(tokens[0]) == 1:
                logits = self.engine.step(list(zip(names, tokens, strict=True))).numpy()
                tokens = [[int(row.argmax())] for row in logits]
                return
            found = []
            for name, prompt in zip(names, tokens, strict=True):
                for start in range(0, len(prompt), CHUNK):
                    logits = self.engine.step([(name, prompt[start : start + CHUNK])]).numpy()
                found.append([int(logits[0].argmax())])
            tokens = found

        return protocol.timed(step, count)


if __name__ == "__main__":
    protocol.main(prepare, Prototype)
