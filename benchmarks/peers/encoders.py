"""Embeddings by transformers, as the other side of `benchmarks/encoder.py`: pooled means of length 1, padding masked."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np


def embeddings(a: dict[str, np.ndarray], threads: int, batches: Iterable[np.ndarray]) -> Callable[[], Any]:
    """The texts of `batches` (indices), one padded batch after the other, by SDPA attention."""
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModel.from_pretrained(
        str(a["folder"]), dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    texts = np.split(a["tokens"].astype(np.int64), np.cumsum(a["lengths"])[:-1])
    inputs = []
    for batch in batches:
        longest = max(len(texts[i]) for i in batch)
        ids, mask = np.zeros((len(batch), longest), np.int64), np.zeros((len(batch), longest), np.int64)
        for row, i in enumerate(batch):
            ids[row, : len(texts[i])], mask[row, : len(texts[i])] = texts[i], 1
        inputs.append((batch, torch.from_numpy(ids), torch.from_numpy(mask)))

    def run() -> np.ndarray:
        out = np.empty((len(texts), model.config.hidden_size), np.float32)
        with torch.inference_mode():
            for batch, ids, mask in inputs:
                states = model(input_ids=ids, attention_mask=mask).last_hidden_state
                mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
                out[batch] = torch.nn.functional.normalize(mean).numpy()
        return out

    return run


def padded(a: dict[str, np.ndarray], threads: int) -> Callable[[], Any]:
    """All texts as one batch."""
    return embeddings(a, threads, [np.arange(len(a["lengths"]))])


def by_length(a: dict[str, np.ndarray], threads: int) -> Callable[[], Any]:
    """Texts of similar length together, 16 in a batch: the least padding that one gets without code of one's own for it."""
    order = np.argsort(a["lengths"], kind="stable")
    return embeddings(a, threads, [order[i : i + 16] for i in range(0, len(order), 16)])
