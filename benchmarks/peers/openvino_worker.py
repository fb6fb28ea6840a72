"""openvino-genai as a worker of side_by_side.py. Variants: "head8" (optimum's default) and "head4" (`--all-layers`)."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import protocol


def prepare(checkpoint: Path, folder: Path, variant: str) -> dict[str, Any]:
    """Export in int4: symmetric groups of 128, which is what its documentation recommends."""
    tool = str(Path(sys.executable).with_name("optimum-cli"))
    options = ["--task", "text-generation-with-past", "--weight-format", "int4", "--sym", "--group-size", "128"]
    options += ["--ratio", "1.0", *(["--all-layers"] if variant == "head4" else [])]
    subprocess.run([tool, "export", "openvino", "--model", str(checkpoint), *options, str(folder)], check=True)
    size = (folder / "openvino_model.bin").stat().st_size
    return {"stored": size, "streamed": size}  # a tied table is one constant


class OpenVino:
    """The pipeline with its defaults, which keep keys and values in 8 bits."""

    def __init__(self, folder: Path, variant: str, threads: int, context: int) -> None:
        import openvino
        import openvino_genai

        self.openvino, self.genai = openvino, openvino_genai
        self.pipeline = openvino_genai.LLMPipeline(str(folder), "CPU", INFERENCE_NUM_THREADS=threads)

    def generate(self, prompts: protocol.Prompts, count: int) -> protocol.Timing:
        import numpy as np

        config = self.genai.GenerationConfig(max_new_tokens=count, ignore_eos=True, do_sample=False)
        ids = np.array(prompts, np.int64)
        inputs = self.genai.TokenizedInputs(self.openvino.Tensor(ids), self.openvino.Tensor(np.ones_like(ids)))
        start = time.perf_counter()
        result = self.pipeline.generate(inputs, config)
        whole = time.perf_counter() - start
        # Its own clock says when each step's tokens came, in milliseconds; the rest of the call counts to the first token.
        times = [float(t) for t in result.perf_metrics.raw_metrics.m_new_token_times]
        rest = (times[-1] - times[0]) / 1e3 if count > 1 else 0.0
        return whole - rest, rest, min(len(tokens) for tokens in result.tokens)


if __name__ == "__main__":
    protocol.main(prepare, OpenVino)
