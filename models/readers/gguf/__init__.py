"""Models in GGUF, the format of llama.cpp."""

from .source import GgufSource, is_gguf

__all__ = ["GgufSource", "is_gguf"]
