"""openvino-genai's ContinuousBatchingPipeline as a worker of engine.py; it loads what openvino_worker.py exports."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import protocol
from openvino_worker import prepare


class ContinuousBatching:
    """The pipeline with its scheduler's defaults, but room in its cache for all requests at once."""

    def __init__(self, folder: Path, variant: str, threads: int, context: int) -> None:
        import openvino
        import openvino_genai

        self.openvino, self.genai = openvino, openvino_genai
        self.folder, self.threads = folder, threads
        self.options: dict[str, Any] | None = None
        self.started = 0
        self._open({})

    def serve(
        self, prompts: protocol.Prompts, counts: list[int], arrivals: list[float] | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Serve requests as `protocol.Engine` says; `options` are fields of SchedulerConfig."""
        import numpy as np

        self._open(options)
        due = [0.0] * len(prompts) if arrivals is None else arrivals
        configs = [self.genai.GenerationConfig(max_new_tokens=n, ignore_eos=True, do_sample=False) for n in counts]
        tensors = [self.openvino.Tensor(np.array([prompt], np.int64)) for prompt in prompts]
        handles: list[Any] = []
        times: list[list[float]] = [[] for _ in prompts]
        start, self.started = time.perf_counter(), self.started + len(prompts)
        while len(handles) < len(prompts) or self.pipeline.has_non_finished_requests():
            now = time.perf_counter() - start
            while len(handles) < len(prompts) and due[len(handles)] <= now:
                i = len(handles)
                handles.append(self.pipeline.add_request(self.started + i, tensors[i], configs[i]))
            if not self.pipeline.has_non_finished_requests():
                time.sleep(max(0.0, due[len(handles)] - now))
                continue
            self.pipeline.step()
            now = time.perf_counter() - start
            for i, handle in enumerate(handles):
                while handle.can_read():
                    times[i] += [now - due[i]] * sum(len(o.generated_ids) for o in handle.read().values())
        return {"seconds": time.perf_counter() - start, "times": times}

    def _open(self, options: dict[str, Any]) -> None:
        if options == self.options:
            return
        config = self.genai.SchedulerConfig()
        for name, value in ({"cache_size": 2, "enable_prefix_caching": False} | options).items():
            setattr(config, name, value)
        self.pipeline = self.genai.ContinuousBatchingPipeline(
            str(self.folder), config, "CPU", {"INFERENCE_NUM_THREADS": self.threads}
        )
        self.options = options


if __name__ == "__main__":
    protocol.main(prepare, ContinuousBatching)
