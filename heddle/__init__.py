"""Heddle: a compiler-centric LLM inference stack on Apache TVM. Names are loaded when they are first used."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "LLM": ".llm",
    "SamplingParams": ".runtime.sampling",
    "RequestOutput": ".runtime.outputs",
    "HeddleError": ".runtime.errors",
    "compile_model": ".compiler.driver",
}

__all__ = ["LLM", "HeddleError", "RequestOutput", "SamplingParams", "__version__", "compile_model"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'heddle' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
