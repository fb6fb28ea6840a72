"""Checkpoints of other programs' formats, written by their published layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

CONFIG = LlamaConfig(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
)


def words(codes: np.ndarray, bits: int, axis: int) -> torch.Tensor:
    """Codes one after the other along an axis, the lowest bits first, as int32."""
    rows = np.moveaxis(codes, axis, -1).reshape(-1, codes.shape[axis])
    packed = []
    for row in rows:
        number = sum(int(code) << (bits * i) for i, code in enumerate(row))
        count = -(-len(row) * bits // 32)
        packed.append(np.frombuffer(number.to_bytes(4 * count, "little"), np.int32))
    shape = [*np.moveaxis(codes, axis, -1).shape[:-1], -1]
    return torch.from_numpy(np.moveaxis(np.stack(packed).reshape(shape), -1, axis).copy())


def quantize_gptq(path: Path, *, bits: int = 4, group: int = 32) -> dict[str, torch.Tensor]:
    """Make the linears of a checkpoint GPTQ's, in place; returns what all tensors hold then, in float16."""
    tensors = load_file(path / "model.safetensors")
    stored: dict[str, torch.Tensor] = {}
    values: dict[str, torch.Tensor] = {}
    for name, weight in tensors.items():
        if "proj" not in name:
            stored[name] = values[name] = weight.half()
            continue
        parts = weight.float().reshape(weight.shape[0], -1, group)
        low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
        scales = ((high - low) / (2**bits - 1)).half()
        zeros = (-low / scales.float()).round()
        codes = (parts / scales.float()[..., None] + zeros[..., None]).round().clamp(0, 2**bits - 1)
        values[name] = ((codes - zeros[..., None]).half() * scales[..., None]).reshape(weight.shape)
        site = name.removesuffix(".weight")
        stored[f"{site}.qweight"] = words(codes.reshape(weight.shape).int().numpy().T, bits, 0)
        stored[f"{site}.qzeros"] = words((zeros.int().numpy().T - 1) % 2**bits, bits, 1)
        stored[f"{site}.scales"] = scales.t().contiguous()
    save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False}
    (path / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    return values
