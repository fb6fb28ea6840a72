"""The decoder and encoder families, one file each. Importing this registers their architectures."""

from __future__ import annotations

from . import (
    bert,
    cohere,
    gemma,
    glm,
    gpt2,
    gpt_neox,
    granite,
    internlm2,
    llama,
    minicpm,
    ministral3,
    mistral,
    modernbert,
    olmo,
    phi,
    phi3,
    qwen,
    smollm,
    stablelm,
    starcoder2,
)

__all__ = [
    "bert",
    "cohere",
    "gemma",
    "glm",
    "gpt2",
    "gpt_neox",
    "granite",
    "internlm2",
    "llama",
    "minicpm",
    "ministral3",
    "mistral",
    "modernbert",
    "olmo",
    "phi",
    "phi3",
    "qwen",
    "smollm",
    "stablelm",
    "starcoder2",
]
