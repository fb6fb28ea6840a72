"""One case of the zoo through save, compile and load: logits, greedy tokens, and the same bits alone as in a batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from heddle.compiler.driver import compile_model
from tests.model_tools import Sequences, reference_logits, relative_error, runner_of, save_random

from .case import Case

LENGTHS = (150, 1, 67, 33)
MARGIN = 1e-3
NEW_TOKENS = 32


@dataclasses.dataclass(frozen=True)
class Result:
    """The largest max|a - b| / max|b| of any row, and how many greedy tokens were compared and equal."""

    error: float
    compared: int
    equal: int


def compare(case: Case, folder: Path) -> Result:
    """Compile a random model of this case in `folder` and compare it with transformers; AssertionError for bits that differ."""
    model = reference = folder / "model"
    if case.save is not None:
        reference = case.save(model)
    else:
        assert case.config is not None
        save_random(model, case.config())
    artifact = compile_model(model, folder / "model.heddle", max_tokens=256, max_seqs=8)
    rng = np.random.default_rng(1)
    tokens = [rng.integers(0, case.vocab, n).astype(np.int32) for n in LENGTHS]
    runner = runner_of(artifact, tokens=1024)
    sequences = Sequences(runner, tokens)
    sequences.step({0: 90, 2: 40, 3: 1})  # ragged prefill
    sequences.step({0: 1, 1: 1, 2: 20, 3: 1})  # single tokens and a chunk
    sequences.step({3: 5, 0: 1})
    logits = sequences.finish(chunk=13)
    alone = Sequences(runner, [tokens[0]], seed=3).finish(chunk=64)[0]
    assert alone.tobytes() == logits[0].tobytes(), "a sequence alone and in a batch must give the same bits"

    prompt = tokens[3]
    greedy, own = list(prompt), Sequences(runner, [np.resize(prompt, len(prompt) + NEW_TOKENS)])
    own.step({0: len(prompt)})
    for i in range(NEW_TOKENS):
        greedy.append(int(own.logits[0][len(prompt) - 1 + i].argmax()))
        own.tokens[0][len(prompt) + i] = greedy[-1]
        own.step({0: 1})
    *expected, continued = reference_logits(reference, [*tokens, np.array(greedy[:-1], np.int32)])
    error = max(
        relative_error(a, b) for a, b in zip([*logits, own.logits[0][:-1]], [*expected, continued], strict=True)
    )
    top = np.sort(continued[len(prompt) - 1 :], axis=1)
    clear = top[:, -1] - top[:, -2] > MARGIN
    same = continued[len(prompt) - 1 :].argmax(1) == np.array(greedy[len(prompt) :])
    return Result(error, int(clear.sum()), int((same & clear).sum()))
