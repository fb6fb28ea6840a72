"""Which reader a checkpoint's `quantization_config` asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..config import read_object
from ..problems import ModelError, Problem, error, raise_errors
from ..weights import TensorSource
from .awq import awq
from .compressed import compressed_tensors
from .float8 import float8
from .gptq import gptq
from .quantized import QuantizedCheckpoint, StoredMatrix

Method = Callable[[Mapping[str, Any], TensorSource, str], tuple[dict[str, StoredMatrix], list[Problem]]]

METHODS: Mapping[str, Method] = {
    "awq": awq,
    "compressed-tensors": compressed_tensors,
    "fbgemm_fp8": float8,
    "fp8": float8,
    "gptq": gptq,
    "modelopt": float8,
}
"""Readers by `quant_method`. Each takes the config, the stored tensors and the type of the model's floats."""

_REFUSED = {
    "bitsandbytes": (
        "its codes are for the package's GPU kernels",
        "take the original checkpoint and quantize it here with --quant, or save model.dequantize() with transformers",
    ),
}
_OLD_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Files of AutoGPTQ and AutoAWQ from before transformers kept this in config.json."""

# Scales of activations and of the KV cache: both are quantized here from what they hold, at every step.
_ACTIVATIONS = re.compile(r".*\.((input|output|[qkv])_(scale|zero_point|global_scale)|input_scale_ub|activation_scale)")


def quantization_config(raw: Mapping[str, Any], directory: Path) -> Mapping[str, Any] | None:
    """How a checkpoint is quantized, with `quant_method`; None where it is not. ModelError where that is not to be read."""
    config, method = raw.get("quantization_config") or raw.get("compression_config"), None
    if not config:
        old = next((name for name in _OLD_FILES if (directory / name).is_file()), None)
        if old is None:
            return None
        config, method = read_object(directory / old, directory), _OLD_FILES[old]
    if not isinstance(config, Mapping):
        what = f"quantization_config is {config!r:.60}"
        raise ModelError(str(directory), [error(what, "it must be an object", "check config.json")])
    return {**config, "quant_method": config.get("quant_method") or method or _guess(config)}


def _guess(config: Mapping[str, Any]) -> str | None:
    """The method of a config from before `quant_method`."""
    return "bitsandbytes" if "load_in_8bit" in config or "load_in_4bit" in config else None


def open_quantized(
    config: Mapping[str, Any], base: TensorSource, *, dtype: str, subject: str
) -> QuantizedCheckpoint | TensorSource:
    """The checkpoint `base`, its quantized matrices decoded as `config` says; `dtype` is the type of the model's floats.

    Raises one ModelError with everything that is wrong.
    """
    method = str(config.get("quant_method"))
    if method not in METHODS:
        what = f'weights quantized by "{method:.40}" cannot be read'
        why, fix = _REFUSED.get(
            method,
            (f"supported: {', '.join(METHODS)}", "take the checkpoint in one of these, or in floating point"),
        )
        raise ModelError(subject, [error(what, why, fix)])
    matrices, problems = METHODS[method](config, base, dtype)
    raise_errors(subject, problems)
    dropped = [name for name in base.tensors if _ACTIVATIONS.fullmatch(name)]
    return QuantizedCheckpoint(base, matrices, dropped, how=json.dumps(config, sort_keys=True))
