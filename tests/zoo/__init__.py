"""Random models of every family: what they are made from (one file a group of families), and the comparison with transformers."""

from __future__ import annotations

from . import gemma, gpt, llama, scaled

CASES = (*llama.CASES, *gpt.CASES, *gemma.CASES, *scaled.CASES)
