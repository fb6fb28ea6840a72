"""How a model pools, by the files of sentence-transformers: what is read, and what is refused with all its problems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heddle.embed import Poolings
from heddle.models.pooling import Pooling, pooling_files, prompt_notes, read_pooling
from heddle.models.problems import ModelError
from heddle.runtime.errors import RequestError
from heddle.runtime.manifest import DenseInfo, PoolingInfo
from heddle.runtime.safetensors import write

TANH, IDENTITY = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"


def sentence_transformer(
    folder: Path, *kinds: str, mode: dict[str, Any] | None = None, activation: str = TANH, **length: Any
) -> Path:
    """The files that sentence-transformers writes beside a model of these modules."""
    modules = []
    for i, kind in enumerate(("Transformer", *kinds)):
        path = f"{i}_{kind}" if i else ""
        modules.append({"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"})
        (folder / path).mkdir(parents=True, exist_ok=True)
        if kind == "Pooling":
            flags = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False}
            config = {"word_embedding_dimension": 4} | flags | (mode or {"pooling_mode_mean_tokens": True})
            (folder / path / "config.json").write_text(json.dumps(config))
        if kind == "Dense":
            config = {"in_features": 4, "out_features": 3, "bias": True, "activation_function": activation}
            (folder / path / "config.json").write_text(json.dumps(config))
            arrays = dense(i)
            specs = [(name, "float32", array.shape) for name, array in arrays.items()]
            write(folder / path / "model.safetensors", specs, arrays.__getitem__)
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 128} | length))
    return folder


def dense(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "linear.weight": rng.standard_normal((3, 4), dtype=np.float32),
        "linear.bias": rng.standard_normal(3, dtype=np.float32),
    }


def read(folder: Path) -> Pooling:
    return read_pooling(pooling_files(folder), folder)


def problems(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read(folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_modes(tmp_path: Path, mode: dict[str, Any], expected: str) -> None:
    found = read(sentence_transformer(tmp_path, "Pooling", mode=mode))
    assert (found.mode, found.normalize, found.max_tokens, found.layers) == (expected, False, 128, ())
    assert read(sentence_transformer(tmp_path, "Pooling", "Normalize", mode=mode)).normalize


def test_without_files_it_is_the_mean_of_length_one(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert (found.mode, found.normalize, found.max_tokens, found.layers, found.pooler) == ("mean", True, 0, (), ())


def test_dense_layers(tmp_path: Path) -> None:
    found = read(sentence_transformer(tmp_path, "Pooling", "Dense", "Normalize", activation=IDENTITY))
    (layer,) = found.layers
    assert layer.activation == "none"
    np.testing.assert_array_equal(layer.weight, dense(2)["linear.weight"])
    np.testing.assert_array_equal(layer.bias, dense(2)["linear.bias"])
    before = found.identity()
    file = tmp_path / "2_Dense" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    assert read(tmp_path).identity() != before  # the cache of compiled models must tell them apart


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    mode = {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}
    folder = sentence_transformer(
        tmp_path, "Pooling", "Normalize", "Dense", "WordWeights", mode=mode, activation="x.ReLU", do_lower_case=True
    )
    (folder / "3_Dense" / "model.safetensors").unlink()
    text = problems(folder)
    for part in (
        "1_Pooling/config.json pools by mean and max: supported: one of mean, cls, last",
        "modules.json has a 'Dense' module where none is expected",
        "modules.json has a 'WordWeights' module where none is expected",
        "asks for texts in lower case",
    ):
        assert part in text


def test_what_dense_modules_may_lack(tmp_path: Path) -> None:
    folder = sentence_transformer(tmp_path, "Pooling", "Dense", activation="x.ReLU")
    assert "2_Dense/config.json has the activation 'x.ReLU'" in problems(folder)
    (folder / "2_Dense" / "model.safetensors").unlink()
    assert "no weights" in problems(folder)
    (folder / "2_Dense" / "config.json").unlink()
    assert "2_Dense/config.json is missing" in problems(folder)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("modules.json", "{", "not valid JSON"),
        ("modules.json", "{}", "not a list of modules"),
        ("modules.json", "[1]", "not a list of modules"),
        ("1_Pooling/config.json", "[]", "1_Pooling/config.json is not a JSON object"),
        ("1_Pooling/config.json", "nan", "1_Pooling/config.json is not valid JSON"),
        ("1_Pooling/config.json", '{"pooling_mode": "weightedmean"}', "pools by weightedmean"),
        ("1_Pooling/config.json", '{"pooling_mode_cls_token": false}', "pools by nothing"),
        ("sentence_bert_config.json", "", "sentence_bert_config.json is not valid JSON"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, text: str, expected: str) -> None:
    folder = sentence_transformer(tmp_path, "Pooling")
    (folder / name).write_text(text)
    with pytest.raises(ModelError, match=expected):
        read(folder)


@pytest.mark.parametrize("path", ["../secret", ".."])
def test_nothing_outside_of_the_directory_is_read(tmp_path: Path, path: str) -> None:
    folder = sentence_transformer(tmp_path / "model", "Pooling")
    (tmp_path / "secret").mkdir()
    for place in (tmp_path, tmp_path / "secret"):
        (place / "config.json").write_text('{"pooling_mode": "mean"}')
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = path
    (folder / "modules.json").write_text(json.dumps(modules))
    assert f"{path}/config.json is missing" in problems(folder)


def test_a_default_prompt_is_the_callers_business(tmp_path: Path) -> None:
    folder = sentence_transformer(tmp_path, "Pooling")
    config = folder / "config_sentence_transformers.json"
    config.write_text(json.dumps({"prompts": {"query": "query: "}, "default_prompt_name": None}))
    assert prompt_notes(pooling_files(folder)) == []
    config.write_text(json.dumps({"prompts": {"query": "query: "}, "default_prompt_name": "query"}))
    (problem,) = prompt_notes(pooling_files(folder))
    assert problem.severity == "warning"
    assert "the default prompt 'query'" in problem.what


def test_lower_case_is_the_tokenizers_business(tmp_path: Path) -> None:
    folder = sentence_transformer(tmp_path, "Pooling", do_lower_case=True)
    for normalizer in ({"type": "Lowercase"}, {"type": "BertNormalizer", "lowercase": True}):
        files = pooling_files(folder) | {"tokenizer.json": json.dumps({"normalizer": normalizer}).encode()}
        assert read_pooling(files, folder).mode == "mean"
    files = pooling_files(folder) | {
        "tokenizer.json": b'{"normalizer": {"type": "BertNormalizer", "lowercase": false}}'
    }
    with pytest.raises(ModelError, match="lower case"):
        read_pooling(files, folder)


# What becomes of hidden states.


def poolings(**options: Any) -> Poolings:
    weights = {name.replace("linear", "l"): array for name, array in dense(0).items()}
    layer = DenseInfo("l.weight", "l.bias", "tanh")
    info = {"mode": "cls", "normalize": False, "max_tokens": 9, "layers": (layer,), "pooler": ()} | options
    return Poolings(PoolingInfo(**info), weights, 4)


def test_the_models_own_way_and_others() -> None:
    states = np.random.default_rng(1).standard_normal((5, 4), dtype=np.float32)
    weight, bias = dense(0).values()

    def pooled(own: Poolings, *how: Any) -> np.ndarray:
        pool = own.pool(*how)
        for i in range(pool.first(5), 5):
            pool(i, states[i : i + 1])
        return pool.vector()

    own = poolings()
    layered = np.tanh(weight @ states[0] + bias)
    np.testing.assert_allclose(pooled(own, None, None), layered, rtol=1e-5)
    np.testing.assert_allclose(pooled(own, None, True), layered / np.linalg.norm(layered), rtol=1e-5)
    np.testing.assert_array_equal(pooled(own, "cls", None), states[0])  # a name is that pooling and no more
    np.testing.assert_array_equal(pooled(own, "last", None), states[4])
    np.testing.assert_allclose(pooled(own, "mean", None), states.mean(0), rtol=1e-5)
    assert (own.width(None), own.width("mean")) == (3, 4)
    with pytest.raises(RequestError, match="pooling is 'pooler'; allowed are 'mean', 'cls', 'last', and None"):
        own.pool("pooler", None)
    pooler = poolings(layers=(), pooler=(DenseInfo("l.weight", "", "none"),))
    np.testing.assert_allclose(pooled(pooler, "pooler", None), weight @ states[0], rtol=1e-5)
    np.testing.assert_array_equal(pooled(pooler, None, None), states[0])


@pytest.mark.parametrize(("asked", "expected"), [(None, None), (-1, 9), (7, 7), (20, 20)])
def test_where_texts_are_cut(asked: int | None, expected: int | None) -> None:
    assert poolings().truncation(asked, 20) == expected
    assert poolings(max_tokens=0).truncation(-1, 20) == 20
    assert poolings(max_tokens=30).truncation(-1, 20) == 20


@pytest.mark.parametrize("asked", [0, -2, 21, True, 1.5])
def test_where_texts_cannot_be_cut(asked: Any) -> None:
    with pytest.raises(RequestError, match="truncate_prompt_tokens is .*; allowed are 1 to 20, -1 and None"):
        poolings().truncation(asked, 20)
