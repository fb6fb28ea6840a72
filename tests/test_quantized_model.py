"""Quantized models from checkpoint to logits: bits, accuracy against the decoded weights, and what is stored."""

from __future__ import annotations

import fcntl
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heddle import LLM
from heddle.compiler.driver import read_source
from heddle.compiler.quant import choose_schemes, model_sites
from heddle.runtime.artifact import open_artifact
from heddle.runtime.errors import RequestError
from heddle.runtime.manifest import ITEM_BYTES, Manifest
from heddle.schedules.target import TargetProfile, resolve_target
from tests.conftest import ROOT
from tests.cpu_targets import TARGETS
from tests.model_tools import Sequences, reference_logits, relative_error, runner_of
from tests.quantized_tools import VOCABULARY, compile_small, ragged, save_decoded, save_small

MIXED = {
    "*": "w4a16",
    "layers.*.attn.k": "w4a8-g32-2l-asym",
    "layers.*.attn.v": "w8a16-pc-f32",
    "layers.0.mlp.down": "none",
    "layers.1.mlp.down": "w8a8-g32-ag-asym",
    "layers.*.attn.o": "w4a16-g64-f32",
    "embed": "w4a16-pc",
    "lm_head": "w8a16",
}
"""Every activation format in one model; a table that embedding and head store apart."""
FINE = {"*": "w4a16-2l", "layers.0.*": "w4a16-g32-asym-f32", "lm_head": "w8a16", "layers.1.mlp.*": "w8a16-g32"}
"""Activations of 15 bits and more: only weights are rounded much."""
SLOW = (
    "w8a8",
    "w8a16",
    "w4a16",
    "w4a8-g32-2l",
    "w4a8-ag",
    "w8a8-g32-ag-asym",
    "w4a16-g32-2l-asym-f32",
    "w8a16-f32-pc",
    "w4a8-min",
)

Artifacts = Callable[..., Path]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run, the same for all processes that the tests are spread over."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="module")
def small(shared: Path) -> Path:
    with (shared / "small.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return shared / "small" if (shared / "small").is_dir() else save_small(shared / "small")


@pytest.fixture(scope="module")
def artifact(small: Path, shared: Path) -> Artifacts:
    """Compiles the small model with a quant, once."""

    def ask(quant: Any, target: str = "native") -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HEDDLE_CACHE", str(shared / "small-artifacts"))
            return compile_small(small, None, quant, target)

    return ask


def same_bits(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert np.isfinite(b).all()
        np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


def alone(path: Path, chunk: int = 64) -> list[np.ndarray]:
    """Logits of each sequence by itself."""
    runner = runner_of(path, tokens=1024)
    return [Sequences(runner, [t], seed=i).finish(chunk=chunk)[0] for i, t in enumerate(ragged())]


def check_invariance(path: Path) -> list[np.ndarray]:
    """A sequence's logits by itself, which are those in a ragged mix, in chunks of any size, and token by token."""
    expected = alone(path)
    same_bits(alone(path, chunk=1), expected)  # the kernels for one row: decode
    for chunk in (2, 5, 8, 13, 64):
        same_bits(Sequences(runner_of(path, tokens=1024), ragged(), seed=chunk).finish(chunk=chunk), expected)
    return expected


# ---------------------------------------------------------------------------------------------------------------- bits
@pytest.mark.parametrize("quant", ["w4a8", MIXED], ids=["w4a8", "mixed"])
def test_batches_and_chunks_change_no_bit(artifact: Artifacts, quant: Any) -> None:
    check_invariance(artifact(quant))


@pytest.mark.slow
@pytest.mark.parametrize("quant", SLOW)
def test_batches_and_chunks_change_no_bit_of_any_scheme(artifact: Artifacts, quant: str) -> None:
    check_invariance(artifact({"*": quant}))


CHILD = """
import sys
import numpy as np
from pathlib import Path
from tests.model_tools import Sequences, runner_of
from tests.quantized_tools import ragged
runner = runner_of(Path(sys.argv[1]), threads=int(sys.argv[2]), tokens=1024)
assert runner.threads == int(sys.argv[2])
np.save(sys.argv[3], np.concatenate(Sequences(runner, ragged()).finish(chunk=30)))
"""


@pytest.mark.parametrize(
    "quant", ["w4a8", *(pytest.param({"*": q}, marks=pytest.mark.slow, id=q) for q in (*SLOW, "w4a8-pc"))]
)
def test_one_thread_has_the_bits_of_two(artifact: Artifacts, tmp_path: Path, quant: Any) -> None:
    """In a process of its own: a thread pool has one size for its life."""
    file = tmp_path / "logits.npy"
    subprocess.run([sys.executable, "-c", CHILD, str(artifact(quant)), "1", str(file)], check=True, cwd=ROOT)
    same_bits([np.load(file)], [np.concatenate(alone(artifact(quant)))])


OTHERS = [
    pytest.param(
        q, target, marks=() if (q, target) == ("w4a8", TARGETS[0]) else pytest.mark.slow, id=f"{q}-{target.name}"
    )
    for q in ("w4a8", *SLOW)
    for target in TARGETS
    if target != resolve_target()
]


@pytest.mark.parametrize(("quant", "target"), OTHERS)
def test_every_target_has_the_bits_of_the_native_one(artifact: Artifacts, quant: str, target: TargetProfile) -> None:
    runner = runner_of(artifact(quant, target.name), tokens=1024)
    same_bits(Sequences(runner, ragged()).finish(chunk=13), alone(artifact(quant)))


# ------------------------------------------------------------------------------------------------------------ accuracy
@pytest.mark.parametrize(
    ("quant", "limit"),
    [("w4a8", 0.06), (MIXED, 0.03), pytest.param(FINE, 1e-3, marks=pytest.mark.slow)],
    ids=["w4a8", "mixed", "fine"],
)
def test_logits_are_those_of_the_decoded_weights(
    artifact: Artifacts, small: Path, tmp_path: Path, quant: Any, limit: float
) -> None:
    """By transformers in float32. What remains is the rounding of activations: 1/254 of a row's largest with 8 bits."""
    decoded = reference_logits(save_decoded(small, tmp_path / "decoded", quant), ragged())
    error = max(relative_error(a, b) for a, b in zip(alone(artifact(quant)), decoded, strict=True))
    assert error < limit
    plain = max(relative_error(a, b) for a, b in zip(reference_logits(small, ragged()), decoded, strict=True))
    assert plain > 2 * error, "the weights are coarser than the activations"


def test_an_odd_model_has_one_group_per_channel(tmp_path: Path) -> None:
    """36 and 52 columns: no group divides them, 4-bit codes do not come in blocks of them, 8 bits per channel fit."""
    source = save_small(tmp_path / "odd", hidden=40, ffn=52, layers=1, tied=False)
    quant = {"*": "w8a16", "lm_head": "w8a16-f32"}
    path = compile_small(source, tmp_path / "odd.heddle", quant)
    decoded = reference_logits(save_decoded(source, tmp_path / "decoded", quant), ragged())
    assert max(relative_error(a, b) for a, b in zip(alone(path), decoded, strict=True)) < 1e-3


# ------------------------------------------------------------------------------------------------------ what is stored
def manifest(path: Path) -> Manifest:
    return open_artifact(path).manifest


def test_a_tied_table_is_stored_once_with_one_scheme(artifact: Artifacts) -> None:
    found = manifest(artifact("w4a8"))
    table = ("embed.weight.w8-pc.codes", "embed.weight.w8-pc.scales")
    assert found.function("embed").params == found.function("head").params == table
    assert [name for name in found.weights[0].tensors if "embed" in name or "head" in name] == list(table)


def test_a_tied_table_is_stored_twice_with_two_schemes(artifact: Artifacts) -> None:
    found = manifest(artifact(MIXED))
    assert found.function("embed").params == ("embed.weight.w4-pc.codes", "embed.weight.w4-pc.scales")
    assert found.function("head").params == ("embed.weight.w8-pc.codes", "embed.weight.w8-pc.scales")


def test_schemes_of_the_manifest(artifact: Artifacts) -> None:
    assert set(manifest(artifact("w4a8")).model.schemes.values()) == {"w4a8-g32", "w8a8-pc"}
    found = manifest(artifact(MIXED)).model.schemes
    assert found == {
        "embed": "w4a16-pc",
        **{f"layers.{i}.attn.q": "w4a16-g32" for i in (0, 1)},
        **{f"layers.{i}.attn.k": "w4a8-g32-2l-asym" for i in (0, 1)},
        **{f"layers.{i}.attn.v": "w8a16-pc-f32" for i in (0, 1)},
        **{f"layers.{i}.attn.o": "w4a16-g64-f32" for i in (0, 1)},
        **{f"layers.{i}.mlp.{name}": "w4a16-g32" for i in (0, 1) for name in ("gate", "up")},
        "layers.0.mlp.down": "none",
        "layers.1.mlp.down": "w8a8-g32-asym-ag",
        "lm_head": "w8a16-pc",
    }
    tensors = manifest(artifact(MIXED)).weights[0].tensors
    assert tensors["layers.0.mlp.down.weight.tile32"].dtype == "float32"
    assert "layers.0.attn.q.weight.w4-g32.codes" in tensors, "q, k and v differ, so they are apart"
    assert "layers.0.attn.k.weight.w4-g32-2l-asym.channels" in tensors


@pytest.mark.parametrize("quant", ["w4a8", MIXED], ids=["w4a8", "mixed"])
def test_stored_bytes_are_the_bits_per_weight(artifact: Artifacts, small: Path, quant: Any) -> None:
    path, model = artifact(quant), read_source(small)
    tensors = manifest(path).weights[0].tensors
    sizes = {name: math.prod(t.shape) * ITEM_BYTES[t.dtype] for name, t in tensors.items()}
    sites, expected = model_sites(model.specs), 0.0
    chosen = choose_schemes(quant, sites)
    for scheme, param in {(s.weight, sites[site]) for site, s in chosen.items()}:
        rows, columns = model.specs[param].shape
        padded = -(-rows // 16) * 16
        expected += scheme.bits_per_weight(columns) * padded * columns / 8
    arrays = ("codes", "scales", "zeros", "mins", "channels")
    assert sum(size for name, size in sizes.items() if name.rpartition(".")[2] in arrays) == expected
    assert manifest(path).memory.weights_bytes == sum(sizes.values())
    assert 0 <= (path / "weights.safetensors").stat().st_size - sum(sizes.values()) < 20_000  # header and alignment


# ---------------------------------------------------------------------------------------------------------- the artifact
def test_an_artifact_knows_its_quantization(artifact: Artifacts) -> None:
    path = artifact("w4a8")
    for quant in (None, "w4a8", "w4a8-g32", {"*": "w4a8", "lm_head": "w8a8-pc"}):
        LLM(path, quant)
    LLM(artifact(MIXED), MIXED)
    with pytest.raises(RequestError, match=r"(?s)the scheme 'w4a8-g32' at layers\.0\.attn\.q, asked for is 'w4a8-g64'"):
        LLM(path, {"*": "w4a8-g64", "layers.*.mlp.down": "w4a8", "lm_head": "w8a8"})
    with pytest.raises(RequestError, match="the scheme 'w4a16-pc' at embed, asked for is 'w4a16-g32'"):
        LLM(artifact(MIXED), {key: value for key, value in MIXED.items() if key != "embed"})


def test_greedy_text_goes_on_from_the_same_logits(artifact: Artifacts) -> None:
    """The engine's decoding picks what a prefill of the whole text finds likeliest."""
    from heddle.runtime.sampling import SamplingParams

    llm = LLM(artifact("w4a8"), threads=2)
    prompt = ragged()[2].tolist()
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    made = list(llm.generate([prompt], params)[0].outputs[0].token_ids)
    (logits,) = llm.forward([prompt + made])
    assert logits[len(prompt) - 1 : -1].argmax(1).tolist() == made
    assert logits.shape == (len(prompt) + 12, VOCABULARY)
