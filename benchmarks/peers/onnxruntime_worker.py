"""onnxruntime-genai as a worker of side_by_side.py. The one variant is "int4", with 8-bit activations (accuracy level 4)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import protocol


def prepare(checkpoint: Path, folder: Path, variant: str) -> dict[str, Any]:
    """Build the model; the table of embeddings, which it stores apart from the head, is not streamed."""
    import onnx

    options = ["-p", "int4", "-e", "cpu", "--extra_options", "int4_accuracy_level=4"]
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint), "-o", str(folder)]
    subprocess.run([*command, "-c", str(folder / "cache"), *options], check=True)
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    sizes = {i.name: int(e.value) for i in graph.initializer for e in i.external_data if e.key == "length"}
    tables = {n.input[0] for n in graph.node if n.op_type == "Gather" and "embed" in n.name}
    stored = sum(sizes.values())
    return {"stored": stored, "streamed": stored - sum(sizes.get(table, 0) for table in tables)}


class OnnxRuntime:
    """One generator for each call; its keys and values are float32."""

    def __init__(self, folder: Path, variant: str, threads: int, context: int) -> None:
        import onnxruntime_genai

        self.genai = onnxruntime_genai
        config = onnxruntime_genai.Config(str(folder))
        session = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"eos_token_id": 0, "decoder": session}}))
        self.model = onnxruntime_genai.Model(config)

    def generate(self, prompts: protocol.Prompts, count: int) -> protocol.Timing:
        import numpy as np

        ids = np.array(prompts, np.int32)
        params = self.genai.GeneratorParams(self.model)
        length = ids.shape[1] + count
        params.set_search_options(
            do_sample=False, batch_size=len(ids), max_length=length, min_length=length, past_present_share_buffer=True
        )
        generators: list[Any] = []

        def step() -> None:
            if not generators:
                generators.append(self.genai.Generator(self.model, params))
                generators[0].append_tokens(ids)
            generators[0].generate_next_token()
            generators[0].get_next_tokens()

        first, rest, _ = protocol.timed(step, count)
        return first, rest, min(len(generators[0].get_sequence(i)) for i in range(len(ids))) - ids.shape[1]


if __name__ == "__main__":
    protocol.main(prepare, OnnxRuntime)
