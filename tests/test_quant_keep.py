"""Checkpoints that are quantized already: their codes are kept to the bit where a layout holds them, and people are told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heddle import LLM
from heddle.compiler import driver
from heddle.compiler.driver import compile_model, read_source
from heddle.compiler.quant import choose, dequantize, model_sites, names, parse_options, stored_quant
from heddle.compiler.quant.encode import assemble, stacked
from heddle.compiler.quant.keep import kept_rows
from heddle.models import QuantInfo, QuantTensor, TensorInfo
from heddle.runtime import safetensors
from heddle.runtime.artifact import open_artifact
from heddle.runtime.errors import HeddleError, RequestError
from heddle.schedules.layouts.scheme import weight_format
from tests.model_tools import Sequences, reference_logits, relative_error, runner_of
from tests.quantized_tools import ragged, save_small
from tests.stored_codes import FORMATS, StoredModel, encoded
from tests.test_cli import call

KEPT = {name: info.holds for name, info in FORMATS.items() if info.holds}
MIXED = {
    "*_proj.weight": "Q4_0",
    "*.v_proj.weight": "Q6_K",
    "*.o_proj.weight": "Q4_K",
    "*.gate_proj.weight": "Q8_0",
    "*.up_proj.weight": "Q6_K",
    "*.down_proj.weight": "Q4_K",
    "*embed_tokens.weight": "Q5_0",
}
"""gate keeps its codes in the format that up is quantized to anew: they are merged all the same."""
HELD = {"*_proj.weight": "Q4_1", "*.[qkv]_proj.weight": "q4f16_1", "*.down_proj.weight": "Q5_1", "*embed*": "Q5_0"}
"""All codes are kept, and all scales are float16."""
SCHEMES = {
    "embed": "w8a8-g32",
    "layers.*.attn.q": "w4a8-g32",
    "layers.*.attn.k": "w4a8-g32",
    "layers.*.attn.v": "w8a8-g32",
    "layers.*.attn.o": "w4a8-g32-min",
    "layers.*.mlp.gate": "w8a8-g32",
    "layers.*.mlp.up": "w8a8-g32",
    "layers.*.mlp.down": "w4a8-g32-min",
    "lm_head": "w8a8-g32",
}


def weights(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(4, (rows, columns)).astype(np.float32) * np.float32(0.02)


# ------------------------------------------------------------------------------------------------------------- matrices
@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize(("rows", "parts"), [(37, 1), (42, 2)])
def test_codes_are_kept(name: str, rows: int, parts: int) -> None:
    tensor, fmt = encoded(weights(rows, 128), name), weight_format(KEPT[name])
    arrays = assemble(kept_rows(tensor, fmt, "w"), fmt, rows, 128, parts, slice_tiles=1)
    found, expected = dequantize(arrays, fmt, rows, parts=parts), tensor.dequantize()
    if name != "Q4_K":
        np.testing.assert_array_equal(found, expected)
        return
    # Scales of two levels have more digits than a float16: each of the two terms is off by 2**-11 at most.
    largest = (15 * tensor.scales - tensor.mins).max()  # type: ignore[operator]
    assert 0 < np.abs(found - expected).max() <= largest * 2**-11


def test_matrices_are_stacked_whatever_the_source_of_their_rows() -> None:
    fmt, heights = weight_format("w4-g32"), (21, 16, 5)
    tensors = [encoded(weights(n, 64, seed=n), "Q4_0") for n in heights]
    source = stacked([kept_rows(t, fmt, "w") for t in tensors], heights)
    for tiles in (1, 2, None):
        arrays = assemble(source, fmt, 42, 64, slice_tiles=tiles)
        np.testing.assert_array_equal(dequantize(arrays, fmt, 42), np.concatenate([t.dequantize() for t in tensors]))


def test_one_scale_for_many_groups_is_repeated() -> None:
    tensor, fmt = encoded(weights(16, 256), "int8"), weight_format("w8-g128")
    arrays = assemble(kept_rows(tensor, fmt, "w"), fmt, 16, 256)
    np.testing.assert_array_equal(dequantize(arrays, fmt, 16), tensor.dequantize())


CODES, SCALES = np.full((2, 64), 9, np.uint8), np.full((2, 2), 0.5, np.float32)


@pytest.mark.parametrize(
    ("tensor", "fmt", "words"),
    [
        (QuantTensor(CODES + np.uint8(7), SCALES, 8.0), "w4-g32", "codes up to 16"),
        (QuantTensor(CODES, SCALES, 8.0, SCALES), "w4-g32", "has minima"),
        (QuantTensor(CODES, SCALES, SCALES), "w4-g32-asym", "zero points that are no codes"),
        (QuantTensor(CODES, SCALES, np.array([[8, 7], [8, 8]], np.float32)), "w4-g32", "zero points that differ"),
        (QuantTensor(CODES, SCALES, 8.0), "w4-g64", "2 scales in a row, which w4-g64 with its 1"),
        (QuantTensor(CODES, SCALES, 8.0, SCALES), "w4-g32-min", "a zero point beside minima"),
    ],
)
def test_a_format_that_does_not_hold_the_codes(tensor: QuantTensor, fmt: str, words: str) -> None:
    found = weight_format(fmt)
    with pytest.raises(ValueError, match=words):
        assemble(kept_rows(tensor, found, "w"), found, 2, 64)


@pytest.mark.parametrize(
    ("scale", "what"), [(np.nan, "scale of nan"), (np.inf, "scale of inf"), (-1e5, r"scale of 100000")]
)
def test_scales_that_float16_lacks_are_named(scale: float, what: str) -> None:
    scales = SCALES.copy()
    scales[1, 0] = scale
    with pytest.raises(HeddleError, match=f"layers.0.w has a {what}"):
        kept_rows(QuantTensor(CODES, scales, 8.0), weight_format("w4-g32"), "layers.0.w")
    with pytest.raises(HeddleError, match=what.replace("scale", "minimum")):
        kept_rows(QuantTensor(CODES, SCALES, 0.0, scales), weight_format("w4-g32-min"), "layers.0.w")


# --------------------------------------------------------------------------------------------------------------- choice
SITES = {s: f"{s}.weight" for s in ("embed", "layers.0.attn.q", "layers.0.attn.v", "layers.0.mlp.up", "lm_head")}
STORED = {
    "layers.0.attn.q": FORMATS["Q4_K"],
    "layers.0.attn.v": FORMATS["Q6_K"],
    "layers.0.mlp.up": FORMATS["FP8"],
    "lm_head": FORMATS["Q4_0"],
}


@pytest.mark.parametrize(
    ("quant", "expected", "kept"),
    [
        (None, ["none", "w4a8-g32-min", "w8a8-g32", "none", "w4a8-g32"], "q head"),
        ("keep", ["none", "w4a8-g32-min", "w8a8-g32", "none", "w4a8-g32"], "q head"),
        ("keep-a16", ["none", "w4a16-g32-min", "w8a16-g32", "none", "w4a16-g32"], "q head"),
        ("none", ["none"] * 5, ""),
        ("w4a8", ["w8a8-pc", "w4a8-g32", "w4a8-g32", "w4a8-g32", "w8a8-pc"], ""),
        ({"lm_head": "w8a8"}, ["none", "w4a8-g32-min", "w8a8-g32", "none", "w8a8-pc"], "q"),
        ({"*.attn.*": "none", "*.up": "w8a16"}, ["none", "none", "none", "w8a16-pc", "w4a8-g32"], "head"),
        ({"*": "w8a8", "*.q": "keep-a16"}, ["w8a8-pc", "w4a16-g32-min", "w8a8-pc", "w8a8-pc", "w8a8-pc"], "q"),
    ],
)
def test_choices(quant: Any, expected: list[str], kept: str) -> None:
    choice = choose(quant, SITES, STORED)
    assert list(names(choice.schemes, SITES).values()) == expected
    assert choice.kept == {{"q": "layers.0.attn.q", "head": "lm_head"}[k] for k in kept.split()}


def test_exceptions_on_the_command_line() -> None:
    quant = parse_options(["keep-a16", "lm_head=w8a8"])
    assert quant == {"*": "keep-a16", "lm_head": "w8a8", "embed": "w8a8"}
    assert choose(quant, SITES, STORED).kept == {"layers.0.attn.q"}


def test_a_tied_table_is_kept_with_the_head() -> None:
    tied = SITES | {"lm_head": SITES["embed"]}
    stored = dict.fromkeys(("embed", "lm_head"), FORMATS["Q8_0"])
    choice = choose(None, tied, stored)
    assert names(choice.schemes, ("embed", "lm_head")) == {"embed": "w8a8-g32", "lm_head": "w8a8-g32"}
    assert choice.kept == {"embed", "lm_head"}
    assert choose({"lm_head": "w4a8"}, tied, stored).kept == set()


@pytest.mark.parametrize("quant", ["keep", "keep-a16", {"*": "w4a8", "lm_head": "keep"}])
def test_nothing_to_keep(quant: Any) -> None:
    with pytest.raises(HeddleError, match=r"(?s)no codes to keep.*give a scheme"):
        choose(quant, SITES, {})


# --------------------------------------------------------------------------------------------------------------- models
@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("keep") / "small")


@pytest.fixture
def with_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Model directories whose weights are codes by MIXED."""
    monkeypatch.setattr(driver, "open_source", lambda path: StoredModel(path, MIXED))


@pytest.fixture(scope="module")
def artifact(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles the small model with codes, once."""
    folder = tmp_path_factory.mktemp("kept")

    def ask(quant: Any, formats: dict[str, str] = MIXED) -> Path:
        output = folder / f"{quant}.heddle"
        if not output.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(driver, "open_source", lambda path: StoredModel(path, formats))
                compile_model(small, output, quant=quant, max_tokens=64, max_seqs=8)
        return output

    return ask


def save_values(source: Path, output: Path, formats: dict[str, str] = MIXED) -> Path:
    """The model with what its codes stand for, as floats."""
    checkpoint = StoredModel(source, formats).checkpoint()
    output.mkdir()
    (output / "config.json").write_bytes((source / "config.json").read_bytes())
    specs = [(name, "float32", info.shape) for name, info in checkpoint.tensors.items()]
    safetensors.write(output / "model.safetensors", specs, checkpoint.read)
    return output


def check_logits(path: Path, values: Path, limit: float) -> None:
    expected = reference_logits(values, ragged())
    for chunk in (64, 5):
        found = Sequences(runner_of(path, tokens=1024), ragged()).finish(chunk=chunk)
        assert max(relative_error(a, b) for a, b in zip(found, expected, strict=True)) < limit


def test_logits_are_those_of_what_the_codes_stand_for(
    artifact: Callable[..., Path], small: Path, tmp_path: Path
) -> None:
    """By transformers in float32. The limit is that of 8-bit activations, 1/254 of a row's largest at each linear."""
    check_logits(artifact(None), save_values(small, tmp_path / "values"), 0.06)


@pytest.mark.slow
@pytest.mark.parametrize(("quant", "limit"), [("keep-a16", 1e-3), ("none", 1e-4)])
def test_nearly_exact_logits(
    artifact: Callable[..., Path], small: Path, tmp_path: Path, quant: str, limit: float
) -> None:
    """What remains are activations of 15 bits; of floats nothing."""
    check_logits(artifact(quant, HELD), save_values(small, tmp_path / "values", HELD), limit)


def test_what_the_artifact_holds(artifact: Callable[..., Path], small: Path) -> None:
    opened = open_artifact(artifact(None))
    model = opened.manifest.model
    for site, found in model.schemes.items():
        assert found == SCHEMES[re.sub(r"\d+", "*", site)]
    labels = {site: info.label for site, info in model.quantized.items() if not info.kept}
    assert labels == {f"layers.{i}.{site}": "Q6_K" for i in (0, 1) for site in ("attn.v", "mlp.up")}
    tensors = safetensors.read_header(opened.path / opened.weights.file)
    data = np.memmap(opened.path / opened.weights.file, np.uint8, mode="r")
    checkpoint, fmt = StoredModel(small, MIXED).checkpoint(), weight_format("w8-g32")
    name = "layers.0.mlp.gate+up.weight.w8-g32"
    arrays = {key: np.asarray(tensors[f"{name}.{key}"].view(data)) for key in ("codes", "scales")}
    gate, up = np.split(dequantize(arrays, fmt, 192, parts=2), 2)
    np.testing.assert_array_equal(gate, checkpoint.read("model.layers.0.mlp.gate_proj.weight"))
    want = checkpoint.read("model.layers.0.mlp.up_proj.weight")
    assert 0 < np.abs(up - want).max() < np.abs(want).max() / 127


def test_an_artifact_knows_whose_codes_it_has(artifact: Callable[..., Path]) -> None:
    path = artifact(None)
    for quant in (None, "keep"):
        LLM(path, quant)
    for quant in ("keep-a16", "none", "w4a8", dict(SCHEMES)):
        with pytest.raises(RequestError, match="was compiled with the scheme"):
            LLM(path, quant)
    with pytest.raises(RequestError, match=r"'w4a8-g32' with the codes of the checkpoint at layers.0.attn.q, asked"):
        LLM(path, {**dict.fromkeys(SCHEMES, "keep"), "layers.*.attn.q": "w4a8"})


def test_inspect_says_what_became_of_the_codes(
    capsys: pytest.CaptureFixture[str], artifact: Callable[..., Path]
) -> None:
    code, out, _ = call(capsys, "inspect", artifact(None))
    lines = [line.strip() for line in out.splitlines()]
    assert code == 0
    for line in (
        "embed: w8a8-g32 (the codes of Q5_0)",
        "layers.*.attn.v: w8a8-g32 (anew from Q6_K)",
        "layers.*.attn.o: w4a8-g32-min (the codes of Q4_K)",
    ):
        assert line in lines


def test_check_says_what_becomes_of_the_codes(
    capsys: pytest.CaptureFixture[str], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = MIXED | {"*.1.mlp.down_proj.weight": "FP8"}
    monkeypatch.setattr(driver, "open_source", lambda path: StoredModel(path, formats))
    code, out, _ = call(capsys, "check", small, "--json")
    notes = {p["what"] for p in json.loads(out)["problems"] if p["severity"] == "note"}
    assert code == 0
    assert {
        "w8a8-g32 (the codes of Q5_0): embed, lm_head",
        "w4a8-g32 (the codes of Q4_0): layers.*.attn.q (2), layers.*.attn.k (2)",
        "w8a8-g32 (anew from Q6_K): layers.*.attn.v (2), layers.*.mlp.up (2)",
        "floats (dequantized FP8): layers.*.mlp.down",
    } <= notes
    out = call(capsys, "check", small, "--quant", "none")[1]
    assert "note: floats (dequantized Q8_0): layers.*.mlp.gate (2)" in out


@pytest.mark.usefixtures("with_codes")
def test_keeping_and_quantizing_anew_are_two_compilations(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Asked(Exception):
        pass

    def key(identity: str, options: dict[str, Any]) -> str:
        asked.append(json.dumps(options, default=str))
        raise Asked

    monkeypatch.setattr(driver.build_cache, "cache_key", key)
    model = read_source(small)
    sites = model_sites(model.specs)
    anew = names(choose(None, sites, stored_quant(sites, model.parameters)).schemes, sites)
    for quant in (None, "keep", anew):
        with pytest.raises(Asked):
            compile_model(small, quant=quant)
    assert asked[0] == asked[1] != asked[2]


@pytest.mark.usefixtures("with_codes")
def test_a_matrix_without_a_kernel_for_its_codes(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that names a format which the shape does not suit is found before any work."""
    infos = {"model.layers.1.self_attn.q_proj.weight": QuantInfo("odd", "w4-g128")}
    checkpoint = StoredModel(small, MIXED).checkpoint()
    checkpoint.tensors |= {n: TensorInfo("float32", checkpoint.tensors[n].shape, i) for n, i in infos.items()}
    monkeypatch.setattr(StoredModel, "checkpoint", lambda self: checkpoint)
    with pytest.raises(HeddleError, match=r"(?s)w4a8-g128 does not fit layers\.1\.attn\.q.*--quant none"):
        compile_model(small, tmp_path / "out.heddle")
