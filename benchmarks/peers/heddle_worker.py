"""Heddle as a worker of side_by_side.py, through its public API. A variant is the `quant=` of LLM as JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TVM_BIND_THREADS", "0")

import protocol

ARTIFACT = "model.heddle"


def prepare(checkpoint: Path, folder: Path, variant: str) -> dict[str, Any]:
    """Compile; the bytes of all weights, of which a tied table is one."""
    from heddle.compiler.driver import compile_model
    from heddle.runtime.artifact import open_artifact

    quant = json.loads(variant)
    options = {} if quant is None else {"quant": quant}
    compile_model(checkpoint, folder / ARTIFACT, **options)
    size = open_artifact(folder / ARTIFACT).manifest.memory.weights_bytes
    return {"stored": size, "streamed": size}


class Heddle:
    """A model whose KV pool holds one context."""

    def __init__(self, folder: Path, variant: str, threads: int, context: int) -> None:
        from heddle import LLM, SamplingParams
        from heddle.runtime.artifact import open_artifact

        group = open_artifact(folder / ARTIFACT).manifest.caches[0]
        pool = context // group.page_tokens * group.record_bytes
        self.llm = LLM(folder / ARTIFACT, threads=threads, context_length=context, kv_memory=pool)
        self.params = SamplingParams

    def generate(self, prompts: protocol.Prompts, count: int) -> protocol.Timing:
        params = self.params(temperature=0.0, max_tokens=count, ignore_eos=True)
        outputs = self.llm.generate(prompts, params)
        times = [output.metrics for output in outputs]
        start, first = min(t.arrival for t in times), max(t.first_token for t in times)
        tokens = min(len(output.outputs[0].token_ids) for output in outputs)
        return first - start, max(t.finished for t in times) - first, tokens


if __name__ == "__main__":
    protocol.main(prepare, Heddle)
