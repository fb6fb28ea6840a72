"""Every encoder against transformers: random weights in float32, ragged batches, the same bits alone and in a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from heddle.compiler.driver import compile_model
from heddle.models import ARCHITECTURES
from tests.encoder_tools import reference_states, save_encoder, states
from tests.model_tools import relative_error, runner_of
from tests.zoo.case import Case
from tests.zoo.compare import Result
from tests.zoo.encoders import CASES, MODELS, render
from tests.zoo.table import read_results, write_result

DEFAULT = {"bert", "roberta", "modernbert"}
"""One case of each family runs by default."""
PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- encoders: written by tests/test_zoo_encoders.py -->", "<!-- end of encoders -->"
LENGTHS = (150, 1, 67, 8, 33, 3)


def _marked() -> list[object]:
    return [pytest.param(c, id=c.name, marks=[] if c.name in DEFAULT else [pytest.mark.slow]) for c in CASES]


@pytest.mark.parametrize("case", _marked())
def test_encoder_agrees_with_transformers(case: Case, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    error = compare_encoder(case, tmp_path)
    if request.config.getoption("--update-golden"):
        write_result(case, Result(error, 0, 0))
    assert error < 1e-4


def test_every_encoder_has_cases() -> None:
    """Those with a head of their own are the same encoders under longer names."""
    assert {case.architecture for case in CASES} == set(MODELS)
    bare = {name for name, found in ARCHITECTURES.items() if found.kind == "encoder" and name.endswith("Model")}
    for model in bare:
        family = model.removesuffix("Model")
        assert len([case for case in CASES if case.architecture.startswith(family)]) >= 3


def test_the_table_of_the_documentation(request: pytest.FixtureRequest) -> None:
    """After `--update-golden` of all cases in one process (`-n 0`), this writes the table anew."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    errors = {name: result.error for name, result in read_results().items()}
    expected = f"{before}{BEGIN}\n{render(errors)}{END}{after}"
    if request.config.getoption("--update-golden"):
        PAGE.write_text(expected)
    assert text == expected or request.config.getoption("--update-golden")


def compare_encoder(case: Case, folder: Path) -> float:
    """The largest max|a - b| / max|b| of hidden states of any position; AssertionError for bits that differ."""
    assert case.config is not None
    save_encoder(folder / "model", case.config(), case.architecture)
    artifact = compile_model(folder / "model", folder / "model.heddle", max_tokens=512, max_seqs=8)
    runner, rng = runner_of(artifact, tokens=1024), np.random.default_rng(1)
    tokens = [rng.integers(10, case.vocab, n).astype(np.int32) for n in LENGTHS]
    together = states(runner, tokens)
    for i, t in enumerate(tokens):
        (alone,) = states(runner, [t], seed=i + 1)
        assert alone.tobytes() == together[i].tobytes(), "a sequence alone and in a batch must give the same bits"
    backwards = states(runner, tokens[::-1], seed=9)[::-1]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(together, backwards, strict=True))
    expected = reference_states(folder / "model", tokens)
    return max(relative_error(a, b) for a, b in zip(together, expected, strict=True))
