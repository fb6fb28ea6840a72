"""Random checkpoints of small shapes, compiled, and compared with transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from heddle.runtime.artifact import open_artifact
from heddle.runtime.model import ModelRunner
from heddle.runtime.plans import PAGE, PlanSequence


def save_random(path: Path, config: Any, *, seed: int = 0, dtype: str = "float32") -> None:
    """A random transformers model of `config`, with weights that make every part matter, saved to `path`."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(0, 0.1)
            elif "norm" in name:
                weight.add_(torch.randn_like(weight) * 0.1)
            else:
                weight.mul_(3.0)
    model.save_pretrained(path)


def reference_logits(path: Path, tokens: list[np.ndarray]) -> list[np.ndarray]:
    """float32 logits of every position by transformers, one sequence at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)  # models this small only wait for each other's threads
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return [model(torch.from_numpy(t[None].astype(np.int64))).logits[0].numpy() for t in tokens]


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest over rows of max|a - b| / max|b|."""
    return float((np.abs(actual - expected).max(1) / np.abs(expected).max(1)).max())


class Sequences:
    """Several token sequences on one runner, served in any steps; collects the logits of every position."""

    def __init__(self, runner: ModelRunner, tokens: list[np.ndarray], *, seed: int = 0) -> None:
        self.runner, self.tokens = runner, tokens
        counts = [-(-len(t) // PAGE) for t in tokens]
        shuffled = np.random.default_rng(seed).permutation(runner.info.num_pages)[: sum(counts)].astype(np.int32)
        self.pages = np.split(shuffled, np.cumsum(counts)[:-1])
        self.done = [0] * len(tokens)
        self.logits = [np.full((len(t), runner.info.vocab_size), np.nan, np.float32) for t in tokens]

    def step(self, rows: dict[int, int]) -> None:
        """Serve the next `rows[i]` tokens of each sequence i in one step."""
        plan = [PlanSequence(self.pages[i][: -(-(self.done[i] + n) // PAGE)], self.done[i], n) for i, n in rows.items()]
        batch = np.concatenate([self.tokens[i][self.done[i] : self.done[i] + n] for i, n in rows.items()])
        logits = self.runner.forward(plan, batch, np.arange(len(batch), dtype=np.int32))
        row = 0
        for i, n in rows.items():
            self.logits[i][self.done[i] : self.done[i] + n] = logits[row : row + n]
            self.done[i] += n
            row += n

    def finish(self, chunk: int) -> list[np.ndarray]:
        """Serve what is left of all sequences together, `chunk` tokens of each in a step at most."""
        while any(done < len(t) for done, t in zip(self.done, self.tokens, strict=True)):
            room, rows = self.runner.info.max_tokens, {}
            for i, t in enumerate(self.tokens):
                n = min(chunk, len(t) - self.done[i], room)
                if n > 0:
                    rows[i] = n
                    room -= n
            self.step(rows)
        return self.logits


def runner_of(artifact: Path, *, threads: int = 2, tokens: int = 8192) -> ModelRunner:
    """A runner with room for `tokens` tokens."""
    opened = open_artifact(artifact)
    group = opened.manifest.caches[0]
    return ModelRunner(opened, kv_bytes=-(-tokens // PAGE) * group.record_bytes, threads=threads)
