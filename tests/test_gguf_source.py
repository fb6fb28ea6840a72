"""Models in GGUF: split ones, and the example model's tensors, tokenizer and generation defaults."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from safetensors.numpy import load_file

from heddle.models import ModelError, architecture, check_model, match_weights
from heddle.models.problems import Problem
from heddle.models.readers.gguf import GgufSource
from heddle.models.source import open_source
from heddle.runtime.tokenizer import Tokenizer
from tests.gguf_tools import METADATA, MODEL, T, small, stored_tensors, write_gguf, write_tinydoc


# --------------------------------------------------------------------------------------------------------------- split
def split(path: Path) -> list[Path]:
    """The example model's tensors in three parts, by gguf-py's own splitting."""
    writer = GGUFWriter(path / "tiny.gguf", "llama", split_max_tensors=16)
    for key, value in METADATA.items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(f"llama.{key}", value)
    for name, array in stored_tensors().items():
        writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(path.glob("*.gguf"))


def test_split_models_are_one(tmp_path: Path) -> None:
    files = split(tmp_path)
    assert [file.name for file in files] == [f"tiny-{i:05d}-of-00003.gguf" for i in (1, 2, 3)]
    expected = load_file(MODEL / "model.safetensors")
    for path in (files[0], files[2], tmp_path):
        checkpoint = GgufSource(path).checkpoint()
        assert set(checkpoint.tensors) == set(expected)
        assert all(np.array_equal(checkpoint.read(name), array) for name, array in expected.items())
    files[1].rename(tmp_path / "x")
    with pytest.raises(ModelError, match=r"1 parts are missing: tiny-00002-of-00003.gguf"):
        GgufSource(files[0]).checkpoint()
    files[1].write_bytes(files[0].read_bytes())
    with pytest.raises(ModelError, match="says that it is part 0 of 3") as caught:
        GgufSource(files[0]).checkpoint()
    assert "is in 2 parts" in str(caught.value)
    (tmp_path / "alone.gguf").write_bytes(files[0].read_bytes())
    with pytest.raises(ModelError, match="a part of a split model"):
        GgufSource(tmp_path / "alone.gguf").config()
    with pytest.raises(ModelError, match="says part 9 of 3"):
        GgufSource(files[0].rename(tmp_path / "tiny-00009-of-00003.gguf")).config()


# ---------------------------------------------------------------------------------------------------- the example model
@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    found = {}
    for kind in (T.F16, T.Q8_0, T.Q4_0):
        found[kind.name] = write_tinydoc(folder / f"tinydoc-{kind.name}.gguf", lambda name, kind=kind: kind)
    return found


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0"])
def test_tensors_of_the_example_model(files: dict[str, Path], kind: str) -> None:
    source = open_source(files[kind])
    original = load_file(MODEL / "model.safetensors")
    checkpoint = source.checkpoint()
    assert set(checkpoint.tensors) == set(original)
    for name, expected in original.items():
        info, values = checkpoint.tensors[name], checkpoint.read(name)
        if expected.ndim == 1 or kind == "F16":
            assert np.array_equal(values, expected)
            assert info.quant is None
        else:
            tolerance = {"Q8_0": 0.005, "Q4_0": 0.15}[kind]
            assert np.abs(values - expected).max() <= tolerance * np.abs(expected).max()
            assert info.quant is not None
            assert info.quant.label == kind
            quantized = checkpoint.read_quantized(name)
            assert quantized.shape == info.shape == expected.shape
            assert np.array_equal(quantized.dequantize(), values)
    assert checkpoint.identity() == open_source(files[kind]).checkpoint().identity()
    assert source.config()["dtype"] == "float16"


def test_tokenizer_and_template_are_those_of_the_original(files: dict[str, Path], tmp_path: Path) -> None:
    carried = open_source(files["Q8_0"]).files()
    for name, data in carried.items():
        (tmp_path / name).write_bytes(data)
    original, found = Tokenizer.load(MODEL), Tokenizer.load(tmp_path)
    texts = [
        "Hello, world",
        "  two  spaces\n\n\tand tabs",
        "def f(x):\n    return x**2  # größer 你好 🎉",
        "<|im_start|>user\nhi<|im_end|>",
    ]
    for words in texts:
        assert found.encode(words) == original.encode(words)
        assert found.decode(original.encode(words)) == original.decode(original.encode(words))
    talk = [{"role": "user", "content": "hi"}]
    assert found.apply_chat_template(talk) == original.apply_chat_template(talk)
    assert json.loads(carried["generation_config.json"])["eos_token_id"][0] == 2


def test_sampling_that_makers_recommend(tmp_path: Path) -> None:
    file = small(tmp_path / "a.gguf", general__sampling__temp=0.5, general__sampling__top_k=20)
    found = json.loads(open_source(file).files()["generation_config.json"])
    assert found == {"do_sample": True, "temperature": 0.5, "top_k": 20}


def test_pooling_of_encoders(tmp_path: Path) -> None:
    tensors = {"token_embd.weight": np.zeros((4, 8), np.float32)}
    carried = open_source(write_gguf(tmp_path / "a.gguf", "bert", {"pooling_type": 2}, tensors)).files()
    assert json.loads(carried["1_Pooling/config.json"]) == {"pooling_mode": "cls"}
    assert [module["type"].rpartition(".")[2] for module in json.loads(carried["modules.json"])] == [
        "Transformer",
        "Pooling",
        "Normalize",
    ]


def test_check_reads_gguf(files: dict[str, Path], tmp_path: Path) -> None:
    def errors(path: Path) -> list[Problem]:
        return [problem for problem in check_model(path) if problem.severity == "error"]

    assert errors(files["Q4_0"]) == []
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(files["Q4_0"].read_bytes()[:-5000])
    assert "truncated" in str(errors(broken)[0])


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0"])
def test_matches_every_parameter(files: dict[str, Path], kind: str) -> None:

    source = open_source(files[kind])
    raw = source.config()
    family = architecture(raw)
    specs = family.weights(family.config(raw))
    assert set(match_weights(specs, source.checkpoint()).names) == set(specs)
