"""Random encoders: saved, compiled, run on whole sequences, and compared with transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from heddle.runtime.model import ModelRunner
from heddle.runtime.plans import PAGE, PlanSequence


def save_encoder(path: Path, config: Any, architecture: str, *, seed: int = 0, dtype: str = "float32") -> None:
    """A random transformers model of `config`, with weights that make every part matter, saved to `path`."""
    import torch
    import transformers

    torch.manual_seed(seed)
    model = getattr(transformers, architecture)(config).to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(0, 0.1)
            elif "norm" in name.lower():
                weight.add_(torch.randn_like(weight) * 0.1)
            else:
                weight.mul_(3.0)
    model.save_pretrained(path)


def reference_states(path: Path, tokens: list[np.ndarray]) -> list[np.ndarray]:
    """float32 hidden states of every position by transformers, one sequence at a time."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        found = [model(torch.from_numpy(t[None].astype(np.int64))) for t in tokens]
    return [states.last_hidden_state[0].numpy() for states in found]


def states(runner: ModelRunner, tokens: list[np.ndarray], *, seed: int = 0) -> list[np.ndarray]:
    """Hidden states of whole sequences that are served in one step, on pages in any order."""
    counts = [-(-len(t) // PAGE) for t in tokens]
    shuffled = np.random.default_rng(seed).permutation(runner.info.num_pages)[: sum(counts)].astype(np.int32)
    pages = np.split(shuffled, np.cumsum(counts)[:-1])
    sequences = [PlanSequence(p, 0, len(t), causal=False) for p, t in zip(pages, tokens, strict=True)]
    runner.forward(sequences, np.concatenate(tokens), np.empty(0, np.int32))
    ends = np.cumsum([len(t) for t in tokens])
    return np.split(runner.hidden(np.arange(ends[-1])).copy(), ends[:-1])
