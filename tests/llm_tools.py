"""A directory that passes for an artifact with tinydoc's tokenizer, run by a device that computes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import heddle.llm
import heddle.opening
from heddle.runtime.artifact import Artifact
from heddle.runtime.manifest import PoolingInfo, TargetInfo
from heddle.runtime.null_runner import HIDDEN, NullRunner

from .tokenizers_for_tests import TINYDOC

SCHEMES = {"embed": "w8a8-pc", "layers.0.attn.q": "w4a8-g32", "layers.0.mlp.down": "w4a8-g32", "lm_head": "w8a8-pc"}
TABLES = {"embed": "embed.weight.w8-pc.codes", "head": "embed.weight.w8-pc.codes"}  # a tied table, stored once


class Functions:
    """Those of the manifest, by the tables that there are now."""

    def __iter__(self) -> Iterator[SimpleNamespace]:
        return (SimpleNamespace(name=name, params=("norm.weight", table)) for name, table in TABLES.items())


def null_artifact(folder: Path, monkeypatch: pytest.MonkeyPatch, **bounds: int) -> Path:
    """Makes `folder` such a directory; `bounds` are NullInfo's, beyond those of the manifest (48 tokens, 3 sequences)."""

    class Runner(NullRunner):
        """Takes the arguments of the real one."""

        def __init__(self, artifact: Artifact, *, kv_bytes: int | None, threads: int | None) -> None:
            super().__init__(**{"vocab_size": 4096, "max_tokens": 48, "max_seqs": 3, **bounds})
            self.kv_bytes, self.threads = kv_bytes, threads
            self.delay = 0.0  # seconds of each step

        def forward(self, *args: Any) -> np.ndarray:
            time.sleep(self.delay)
            return super().forward(*args)

    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).symlink_to(TINYDOC / name)
    (folder / "manifest.json").touch()
    manifest: Any = SimpleNamespace(
        model=SimpleNamespace(
            kind="decoder",
            weight_dtype="float16",
            schemes=SCHEMES,
            quantized={},
            kv_dtype="float32",
            context_length=256,
            hidden_size=HIDDEN,
        ),
        files={name: SimpleNamespace(sha256=name) for name in ("weights.safetensors", "lib/test.so")},
        functions=Functions(),
        pooling=PoolingInfo("mean", True, 0, (), ()),
        plan=SimpleNamespace(max_tokens=48, max_seqs=3),
        generation={"eos_token_ids": [2, 0]},
        caches=(SimpleNamespace(page_tokens=16, record_bytes=1000),),
    )
    target = TargetInfo("test", "", (), {}, "lib/test.so", "weights.safetensors")

    def opened(path: str, verify: str = "quick", name: str = "native") -> Artifact:
        return Artifact(Path(path), manifest, target)

    monkeypatch.setattr(heddle.opening, "open_artifact", opened)
    monkeypatch.setattr(heddle.llm, "ModelRunner", Runner)
    return folder
