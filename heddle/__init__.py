"""Heddle: a compiler-centric LLM inference stack on Apache TVM. Names are loaded when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .async_llm import AbortedError, AsyncLLM, EngineDeadError
    from .beam import BeamSearchParams
    from .compiler.driver import compile_model
    from .compiler.driver import compile_model as compile
    from .compiler.torch_export.compile import compile_torch
    from .llm import LLM, load
    from .runtime.errors import HeddleError
    from .runtime.module import Module, load_module
    from .runtime.outputs import RequestOutput
    from .runtime.sampling import SamplingParams
    from .runtime.structured.params import Structured

__version__ = "0.1.0"

_HOMES = {
    "LLM": (".llm", "LLM"),
    "load": (".llm", "load"),
    "AsyncLLM": (".async_llm", "AsyncLLM"),
    "BeamSearchParams": (".beam", "BeamSearchParams"),
    "compile": (".compiler.driver", "compile_model"),
    "compile_model": (".compiler.driver", "compile_model"),
    "compile_torch": (".compiler.torch_export.compile", "compile_torch"),
    "load_module": (".runtime.module", "load_module"),
    "Module": (".runtime.module", "Module"),
    "SamplingParams": (".runtime.sampling", "SamplingParams"),
    "Structured": (".runtime.structured.params", "Structured"),
    "RequestOutput": (".runtime.outputs", "RequestOutput"),
    "AbortedError": (".engine_thread", "AbortedError"),
    "EngineDeadError": (".engine_thread", "EngineDeadError"),
    "HeddleError": (".runtime.errors", "HeddleError"),
}

__all__ = [
    "LLM",
    "AbortedError",
    "AsyncLLM",
    "BeamSearchParams",
    "EngineDeadError",
    "HeddleError",
    "Module",
    "RequestOutput",
    "SamplingParams",
    "Structured",
    "__version__",
    "compile",
    "compile_model",
    "compile_torch",
    "load",
    "load_module",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'heddle' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module, __name__), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
