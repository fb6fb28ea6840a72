"""Directories as a download leaves them that went wrong, and generation defaults that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heddle.models import ModelError
from heddle.models.check import check_model
from heddle.models.generation import generation_defaults
from heddle.models.random_weights import RandomCheckpoint
from heddle.models.registry import architecture

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 5340\n"
PAGE = "<!DOCTYPE html><html><body>404</body></html>"
RAW = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 24,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "max_position_embeddings": 32,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    family = architecture(RAW)
    random = RandomCheckpoint(family.weights(family.config(RAW)), 0, "float32")
    tensors = {name: torch.from_numpy(random.read(name).copy()) for name in random.tensors}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(RAW))
    assert not errors(tmp_path)
    return tmp_path


def errors(path: Path) -> list[str]:
    return [str(problem) for problem in check_model(path) if problem.severity == "error"]


@pytest.mark.parametrize(("text", "expected"), [(POINTER, "git lfs pull"), (PAGE, "is a web page"), ("", "is empty")])
def test_what_stands_in_for_a_gguf_file_is_named(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "model.gguf").write_text(text)
    assert all(expected in problem and "model.gguf" in problem for problem in errors(tmp_path))
    assert errors(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(POINTER, "git lfs pull"), (PAGE, "is a web page"), ("", "is empty")],
    ids=["lfs", "html", "empty"],
)
def test_what_stands_in_for_a_file_is_named(model: Path, text: str, expected: str) -> None:
    """All of them at once."""
    for i in (1, 2):
        (model / f"model-0000{i}-of-00002.safetensors").write_text(text)
    (model / "model.safetensors").unlink()
    (model / "tokenizer.json").write_text(text)
    (model / "tokenizer.model").write_text(text)
    found = errors(model)
    assert len(found) == 4
    assert all(expected in problem for problem in found)
    (model / "config.json").write_text(text)
    (problem,) = errors(model)
    assert "config.json" in problem
    assert expected in problem
    for i in (1, 2):
        (model / f"model-0000{i}-of-00002.safetensors").rename(model / f"pytorch_model-0000{i}-of-00002.bin")
    (model / "config.json").write_text(json.dumps(RAW))
    assert sum(".bin" in problem and expected in problem for problem in errors(model)) == 2


@pytest.mark.parametrize("suffix", [".part", ".incomplete"])
def test_unfinished_downloads_are_named(model: Path, suffix: str) -> None:
    (model / "model.safetensors").rename(model / f"model.safetensors{suffix}")
    (problem,) = errors(model)
    assert f"not downloaded to the end, or links to nothing: model.safetensors{suffix}" in problem


def test_weights_beside_a_config_in_another_form(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-Q4_K_M.gguf")
    (problem,) = errors(model)
    assert "there are model-Q4_K_M.gguf; give the path of one of these files" in problem


def test_an_artifact_is_no_checkpoint(model: Path) -> None:
    (model / "model.safetensors").rename(model / "weights.safetensors")
    (model / "manifest.json").write_text("{}")
    (problem,) = errors(model)
    assert "it may be a compiled artifact already" in problem


def test_the_cache_of_hugging_face(model: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Snapshots are links to blobs; the folder above them is no model, and links may lead nowhere."""
    folder = tmp_path_factory.mktemp("models--a--b")
    snapshot = folder / "snapshots" / "1f2e"
    (folder / "blobs").mkdir()
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(model.iterdir())):
        file.rename(folder / "blobs" / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    assert not errors(snapshot)
    (problem,) = errors(folder)
    assert f"give {snapshot}" in problem
    (folder / "blobs" / "0").unlink()
    (problem,) = errors(snapshot)
    assert "config.json is a link to a file that does not exist" in problem


@pytest.mark.parametrize(
    ("file", "raw", "expected"),
    [
        (b"{", {}, "generation_config.json cannot be read"),
        (b"[]", {}, "it must be a JSON object"),
        (b'{"eos_token_id": "</s>"}', {}, "eos_token_id in generation_config.json is not valid"),
        (b"{}", {"eos_token_id": [2, None, True]}, "in config.json is not valid: None, True"),
    ],
)
def test_generation_defaults_that_are_none(file: bytes, raw: dict[str, object], expected: str) -> None:
    with pytest.raises(ModelError) as caught:
        generation_defaults(file, raw)
    assert expected in str(caught.value.problems[0])


def test_end_tokens(model: Path) -> None:
    assert generation_defaults(None, {})["eos_token_ids"] == []
    assert generation_defaults(None, {"eos_token_id": 2})["eos_token_ids"] == [2]
    assert generation_defaults(b'{"eos_token_id": [3, 4]}', {"eos_token_id": 2})["eos_token_ids"] == [3, 4]
    (model / "generation_config.json").write_text('{"eos_token_id": [2, 24]}')
    assert "eos_token_id is 24: the vocabulary has 24 tokens, so these do not end a text" in warnings(model)
    (model / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    assert "a token id is an integer" in errors(model)[0]


def test_added_tokens_beyond_the_vocabulary(model: Path) -> None:
    """Gemma 3 without vision has the token of an image in its tokenizer; ordinary tokens would be another model's."""
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.WordLevel({f"t{i}": i for i in range(24)}, unk_token="t0"))
    tokenizer.add_special_tokens(["<image>"])
    tokenizer.save(str(model / "tokenizer.json"))
    assert not errors(model)
    assert "the model does not know '<image>' of the tokenizer" in warnings(model)


def warnings(path: Path) -> str:
    return "\n".join(str(problem) for problem in check_model(path) if problem.severity == "warning")
