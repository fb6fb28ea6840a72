"""Manifests and artifacts to damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from heddle.runtime.features import architecture
from heddle.runtime.manifest import (
    FORMAT_VERSION,
    CacheGroup,
    DenseInfo,
    FileInfo,
    FunctionInfo,
    InstanceInfo,
    Manifest,
    MemoryInfo,
    ModelInfo,
    PlanInfo,
    PoolingInfo,
    TargetInfo,
    TensorInfo,
    WeightsInfo,
)
from heddle.runtime.plans import PlanLayout
from heddle.runtime.tvm import ffi_version, tvm_version


def small_manifest(*, dense: bool = False) -> Manifest:
    """A manifest that keeps every rule of the schema and fits this machine; its files do not exist.

    With `dense` its embeddings have a layer behind the pooling, in one file more.
    """
    layers = (DenseInfo("layers.0.weight", "layers.0.bias", "tanh"),) if dense else ()
    files = ("lib/test.so", *(["pooling.safetensors"] if dense else []), "weights.safetensors")
    return Manifest(
        format_version=FORMAT_VERSION,
        heddle_version="0.0.1",
        tvm_version=tvm_version(),
        ffi_version=ffi_version(),
        targets=(TargetInfo("test", architecture(), (), {"kind": "llvm"}, "lib/test.so", "weights.safetensors"),),
        model=ModelInfo(
            "LlamaForCausalLM",
            "decoder",
            32,
            8,
            1,
            2,
            1,
            4,
            64,
            "float16",
            {"embed": "none"},
            {},
            "float32",
            {"hidden_size": 8},
        ),
        pooling=PoolingInfo("mean", True, 256, layers, ()),
        generation={"eos_token_ids": [2]},
        functions=(FunctionInfo("body", ("w",), (InstanceInfo("body_1", 1), InstanceInfo("body_n", 16))),),
        weights=(WeightsInfo("weights.safetensors", {"w": TensorInfo("float16", (8, 8))}),),
        caches=(CacheGroup("kv", "paged", 1, 16, "float32", (1, 1, 128), 512),),
        plan=PlanInfo.of(PlanLayout(16, 2)),
        memory=MemoryInfo(128, 0, 512, "weights 128 + pages * 512"),
        files={name: FileInfo("0" * 64, 1) for name in files},
        compile_seconds={"codegen": 0.5},
    )


def copy_artifact(source: Path, folder: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(source, folder / "copy.heddle"))


def edit_manifest(artifact: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON of an artifact's manifest in place."""
    file = artifact / "manifest.json"
    raw = json.loads(file.read_text())
    edit(raw)
    file.write_text(json.dumps(raw))


def flip_byte(file: Path, position: int) -> None:
    """Change one bit of one byte; a negative position counts from the end."""
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)
