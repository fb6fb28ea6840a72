"""Tokenizers in the forms that people have them, each as the tokenizer.json that the runtime reads."""

from .directory import TOKENIZER_FILES, directory_tokenizer
from .gguf import gguf_tokenizer

__all__ = ["TOKENIZER_FILES", "directory_tokenizer", "gguf_tokenizer"]
