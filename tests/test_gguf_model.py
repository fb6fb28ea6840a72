"""The example model in GGUF, compiled: logits and tokens of the dequantized weights, and those of llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T

from heddle.compiler.driver import compile_model
from heddle.models.source import open_source
from tests.gguf_tools import write_tinydoc
from tests.model_tools import Sequences, relative_error, runner_of

PROMPTS = (
    "The command line option",
    "def main(",
    "To install the package, run",
    "A transaction is",
    "The function returns a pointer to",
)
TOKENS = 32
KEPT = 2e-3
"""Largest relative error of logits with kept codes and 15-bit activations: some times 2^-15 a layer, and scales in float16."""


def dequantized_logits(path: Path, tokens: list[np.ndarray]) -> list[np.ndarray]:
    """float32 logits by transformers with the dequantized weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    source = open_source(path)
    checkpoint = source.checkpoint()
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**source.config()), attn_implementation="eager")
    state = {name: torch.from_numpy(checkpoint.read(name).astype(np.float32)) for name in checkpoint.tensors}
    missing, unexpected = model.float().eval().load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    with torch.no_grad():
        return [model(torch.from_numpy(t[None].astype(np.int64))).logits[0].numpy() for t in tokens]


def compared(path: Path, artifact: Path) -> float:
    """Largest relative error of an artifact's logits against the dequantized weights."""
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, 4096, n).astype(np.int32) for n in (5, 40, 17)]
    found = Sequences(runner_of(artifact), tokens).finish(16)
    expected = dequantized_logits(path, tokens)
    return max(relative_error(a, b) for a, b in zip(found, expected, strict=True))


KINDS = {
    "4 and 8 bits": {"token_embd": T.Q8_0},
    "all": {"attn_q": T.Q4_1, "attn_v": T.Q5_0, "ffn_gate": T.Q5_1, "ffn_down": T.Q8_0, "token_embd": T.Q8_0},
}


@pytest.mark.parametrize(
    "kinds", [KINDS["4 and 8 bits"], pytest.param(KINDS["all"], marks=pytest.mark.slow)], ids=KINDS
)
def test_kept_codes_give_the_logits_of_the_dequantized_weights(kinds: dict[str, T], tmp_path: Path) -> None:
    """Types whose codes layouts hold, Q4_0 where `kinds` says nothing else; activations in 15 bits, so that the codes decide."""

    def kind(name: str) -> T:
        return next((kind for part, kind in kinds.items() if part in name), T.Q4_0)

    path = write_tinydoc(tmp_path / "mixed.gguf", kind)
    labels = {info.quant.label for info in open_source(path).checkpoint().tensors.values() if info.quant}
    assert labels == {"Q4_0", *(kind.name for kind in kinds.values())}
    artifact = compile_model(path, tmp_path / "a.heddle", quant="keep-a16", kv_dtype="float32")
    assert compared(path, artifact) < KEPT


@pytest.mark.slow
@pytest.mark.parametrize("kind", [T.F16, T.Q8_0, T.Q4_0])
def test_dequantized_to_floats(tmp_path: Path, kind: T) -> None:
    path = write_tinydoc(tmp_path / "a.gguf", lambda name: kind)
    assert compared(path, compile_model(path, tmp_path / "a.heddle", quant="none", dtype="float32")) < 1e-4
