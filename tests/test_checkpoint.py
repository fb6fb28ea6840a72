"""Checkpoints: files, shards and random weights; every way in which files and weights can be wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from heddle.models import (
    ModelError,
    RandomCheckpoint,
    WeightMatch,
    WeightSpec,
    architecture,
    check_model,
    match_weights,
    open_checkpoint,
    open_source,
)

RAW = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TIED = RAW | {"tie_word_embeddings": True}
Tensors = dict[str, np.ndarray]
INDEX = "model.safetensors.index.json"


def specs_of(raw: dict[str, Any]) -> dict[str, WeightSpec]:
    arch = architecture(raw)
    return arch.weights(arch.config(raw))


def tensors_of(raw: dict[str, Any], dtype: str = "float32") -> Tensors:
    """A whole checkpoint under the names of the Hub."""
    checkpoint = RandomCheckpoint(specs_of(raw), 7, dtype)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def write_model(path: Path, raw: dict[str, Any], tensors: Tensors) -> Path:
    (path / "config.json").write_text(json.dumps(raw))
    save_file(tensors, path / "model.safetensors")
    return path


def write_shards(path: Path, shards: dict[str, Tensors], weight_map: dict[str, str] | None = None) -> Path:
    for file, tensors in shards.items():
        save_file(tensors, path / file)
    weight_map = weight_map or {name: file for file, tensors in shards.items() for name in tensors}
    (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


def match(raw: dict[str, Any], path: Path) -> WeightMatch:
    return match_weights(specs_of(raw), open_checkpoint(path), ignored=architecture(raw).ignored)


def refused(action: Callable[[], object]) -> str:
    with pytest.raises(ModelError) as caught:
        action()
    return str(caught.value)


# -------------------------------------------------------------------------------------------------------------- files
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_single_file_is_mapped_without_a_copy(tmp_path: Path, dtype: str) -> None:
    tensors = tensors_of(RAW, dtype)
    checkpoint = open_checkpoint(write_model(tmp_path, RAW, tensors))
    assert set(checkpoint.tensors) == set(tensors)
    for name, expected in tensors.items():
        found = checkpoint.read(name)
        assert checkpoint.tensors[name].dtype == dtype == found.dtype.name
        assert checkpoint.tensors[name].shape == found.shape
        assert np.array_equal(found, expected)
        assert not found.flags.writeable
        assert not found.flags.owndata
    whole = [checkpoint.read(name) for name in tensors]
    span = max(a.ctypes.data + a.nbytes for a in whole) - min(a.ctypes.data for a in whole)
    assert span == sum(a.nbytes for a in whole)  # views of one mapping


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    tensors = tensors_of(RAW)
    names = sorted(tensors)
    half = len(names) // 2
    parts = {
        "a.safetensors": {n: tensors[n] for n in names[:half]},
        "b.safetensors": {n: tensors[n] for n in names[half:]},
    }
    checkpoint = open_checkpoint(write_shards(tmp_path, parts))
    assert all(np.array_equal(checkpoint.read(name), tensors[name]) for name in names)
    assert match(RAW, tmp_path).notes == ()


def test_a_file_alone_can_be_opened(tmp_path: Path) -> None:
    save_file({"x": np.ones((2, 0, 3), np.float32), "y": np.float16([[3]])}, tmp_path / "some.safetensors")
    checkpoint = open_checkpoint(tmp_path / "some.safetensors")
    assert checkpoint.read("x").shape == (2, 0, 3)
    assert checkpoint.read("y") == 3
    with pytest.raises(KeyError):
        checkpoint.read("z")


def test_a_file_of_weights_stands_for_its_directory(tmp_path: Path) -> None:
    write_model(tmp_path, RAW, tensors_of(RAW))
    source = open_source(tmp_path / "model.safetensors")
    assert source.config() == RAW
    assert source.checkpoint().tensors == open_checkpoint(tmp_path).tensors
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "config.json").write_text(json.dumps(RAW))
    write_shards(tmp_path / "shards", {"a.safetensors": tensors_of(RAW)})
    source = open_source(tmp_path / "shards" / "model.safetensors.index.json")
    assert source.config() == RAW
    assert source.checkpoint().tensors == open_checkpoint(tmp_path).tensors


def test_many_missing_shards_are_few_lines(tmp_path: Path) -> None:
    save_file({"x": np.ones(2, np.float32)}, tmp_path / "model-00002-of-99999.safetensors")
    with pytest.raises(ModelError) as caught:
        open_checkpoint(tmp_path)
    first, *_, last = (problem.what for problem in caught.value.problems)
    assert first == 'shard "model-00001-of-99999.safetensors" is missing'
    assert last == "99988 more shards are missing"


def test_identity_follows_config_headers_and_file_times(tmp_path: Path) -> None:
    write_model(tmp_path, RAW, tensors_of(RAW))
    file = tmp_path / "model.safetensors"
    seen = [open_checkpoint(tmp_path).identity()]
    assert open_checkpoint(tmp_path).identity() == seen[0]
    os.utime(file, ns=(1, 1))
    seen.append(open_checkpoint(tmp_path).identity())
    (tmp_path / "config.json").write_text(json.dumps(RAW | {"rms_norm_eps": 1e-5}))
    seen.append(open_checkpoint(tmp_path).identity())
    save_file({name: tensor.astype(np.float16) for name, tensor in tensors_of(RAW).items()}, file)
    os.utime(file, ns=(1, 1))
    seen.append(open_checkpoint(tmp_path).identity())
    assert len(set(seen)) == 4


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_truncated_file(tmp_path: Path, keep: int) -> None:
    write_model(tmp_path, RAW, tensors_of(RAW))
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert "model.safetensors" in refused(lambda: open_checkpoint(tmp_path))
    if keep in (60, -1):
        assert "is truncated" in refused(lambda: open_checkpoint(tmp_path))


def test_corrupt_header(tmp_path: Path) -> None:
    header = b'{"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}'
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    text = refused(lambda: open_checkpoint(tmp_path))
    assert "corrupt header" in text
    assert "'x'" in text


def test_damaged_shards_are_listed_together(tmp_path: Path) -> None:
    write_shards(tmp_path, {f"{k}.safetensors": {k: np.ones(64, np.float32)} for k in "abcd"})
    for name in "ac":
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(file.read_bytes()[:-4])
    text = refused(lambda: open_checkpoint(tmp_path))
    assert "2 problems" in text
    assert "a.safetensors is truncated" in text
    (tmp_path / "b.safetensors").unlink()
    (tmp_path / "d.safetensors").unlink()
    text = refused(lambda: open_checkpoint(tmp_path))
    assert 'shard "b.safetensors" is missing' in text
    assert 'shard "d.safetensors" is missing' in text


def test_index_and_shards_must_agree(tmp_path: Path) -> None:
    one = np.ones(4, np.float32)
    shards = {"a.safetensors": {"twice": one, "stray": one}, "b.safetensors": {"twice": one, "moved": one}}
    weight_map = {"twice": "a.safetensors", "moved": "a.safetensors", "gone": "b.safetensors"}
    text = refused(lambda: open_checkpoint(write_shards(tmp_path, shards, weight_map)))
    assert 'tensor "twice" is in 2 shards: a.safetensors, b.safetensors' in text
    assert 'tensor "stray" of a.safetensors is not in' in text
    assert f'tensor "moved" is in another shard: {INDEX} says a.safetensors, it is in b.safetensors' in text
    assert 'tensor "gone" is missing' in text


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"x": "../y.safetensors"}}'])
def test_bad_index(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    assert "not an index of safetensors" in refused(lambda: open_checkpoint(tmp_path))


def test_no_weights(tmp_path: Path) -> None:
    assert "--random-weights" in refused(lambda: open_checkpoint(tmp_path))
    (tmp_path / "tf_model.h5").touch()
    assert "there are tf_model.h5" in refused(lambda: open_checkpoint(tmp_path))
    assert "the path does not exist" in refused(lambda: open_checkpoint(tmp_path / "missing"))


# ------------------------------------------------------------------------------------------------------------ matching
@pytest.mark.parametrize("raw", [RAW, TIED], ids=["untied", "tied"])
def test_names_with_and_without_prefix(tmp_path: Path, raw: dict[str, Any]) -> None:
    tensors = tensors_of(raw)
    assert match(raw, write_model(tmp_path, raw, tensors)).names["norm.weight"] == "model.norm.weight"
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    found = match(raw, write_model(tmp_path, raw, bare)).names
    assert found["layers.1.attn.q.weight"] == "layers.1.self_attn.q_proj.weight"
    assert set(found) == set(specs_of(raw))


def test_all_weight_problems_are_listed_at_once(tmp_path: Path) -> None:
    tensors = tensors_of(RAW)
    tensors["model.layers.0.self_attn.q_proj.wieght"] = tensors.pop("model.layers.0.self_attn.q_proj.weight")
    tensors["model.layers.1.mlp.up_proj.weight"] = np.ones((20, 17), np.float32)
    tensors["model.norm.weight"] = np.ones(16, np.int8)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    del tensors["lm_head.weight"]
    text = refused(lambda: match(RAW, write_model(tmp_path, RAW, tensors)))
    for expected in (
        "has 5 problems",
        'missing weight "model.layers.0.self_attn.q_proj.weight": expected shape [16, 16]; '
        'did you mean "model.layers.0.self_attn.q_proj.wieght"',
        'extra weight "model.layers.0.self_attn.q_proj.wieght"',
        'misshapen weight "model.layers.1.mlp.up_proj.weight": expected [20, 16] by config.json, found [20, 17]',
        'weight "model.norm.weight" is stored as int8: supported: float32, float16, bfloat16',
        'missing weight "lm_head.weight": expected shape [24, 16]',
    ):
        assert expected in text, expected
    assert "inv_freq" not in text


def test_many_layers_alike_are_one_line(tmp_path: Path) -> None:
    raw = RAW | {"num_hidden_layers": 12}
    tensors = {name: t for name, t in tensors_of(raw).items() if "k_proj" not in name or ".3." in name}
    text = refused(lambda: match(raw, write_model(tmp_path, raw, tensors)))
    assert '"model.layers.*.self_attn.k_proj.weight" (11 tensors, first index 0-2, 4-11)' in text
    assert "problems" not in text


def test_ignorable_tensors_are_noted(tmp_path: Path) -> None:
    tensors = tensors_of(RAW) | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)}
    assert "1 tensors are not needed" in match(RAW, write_model(tmp_path, RAW, tensors)).notes[0]


def test_tied_checkpoint_may_repeat_the_table(tmp_path: Path) -> None:
    tensors = tensors_of(TIED)
    table = tensors["model.embed_tokens.weight"]
    found = match(TIED, write_model(tmp_path, TIED, tensors | {"lm_head.weight": table}))
    assert found.names["embed.weight"] == "model.embed_tokens.weight"
    assert "lm_head.weight" not in found.names
    assert '"lm_head.weight" repeats "model.embed_tokens.weight"' in found.notes[0]
    text = refused(lambda: match(TIED, write_model(tmp_path, TIED, tensors | {"lm_head.weight": table + 1})))
    assert '"lm_head.weight" and "model.embed_tokens.weight" differ' in text
    assert '"tie_word_embeddings": false' in text
    text = refused(lambda: match(TIED, write_model(tmp_path, TIED, tensors | {"lm_head.weight": table[1:]})))
    assert 'misshapen weight "lm_head.weight"' in text
    del tensors["model.embed_tokens.weight"]
    found = match(TIED, write_model(tmp_path, TIED, tensors | {"lm_head.weight": table}))
    assert found.names["embed.weight"] == "lm_head.weight"


# -------------------------------------------------------------------------------------------------------------- random
def test_random_weights_depend_on_seed_and_name_alone() -> None:
    specs = specs_of(RAW)
    name, other = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
    first, again = RandomCheckpoint(specs, 3, "float32"), RandomCheckpoint(specs, 3, "float32")
    again.read(other)
    assert np.array_equal(first.read(name), again.read(name))
    assert not np.array_equal(first.read(name), first.read(other))
    assert not np.array_equal(first.read(name), RandomCheckpoint(specs, 4, "float32").read(name))
    assert first.identity() == again.identity()
    identities = {RandomCheckpoint(specs, s, d).identity() for s in (3, 4) for d in ("float32", "float16")}
    assert len(identities | {RandomCheckpoint(specs_of(TIED), 3, "float32").identity()}) == 5
    # A value of record: the same on every machine and for every version of NumPy.
    assert first.read(name)[0, :2].tolist() == pytest.approx([-0.031455714, 0.014127171], rel=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_random_weights_of_other_types_are_rounded(dtype: str) -> None:
    specs = specs_of(RAW)
    wide, narrow = RandomCheckpoint(specs, 3, "float32"), RandomCheckpoint(specs, 3, dtype)
    for name in wide.tensors:
        array = narrow.read(name)
        assert array.dtype.name == dtype == narrow.tensors[name].dtype
        assert np.array_equal(array, wide.read(name).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))


def test_random_weights_are_distributed_as_promised() -> None:
    spec = {
        "w": WeightSpec(("w.weight",), (1500, 1001), "linear"),
        "norm": WeightSpec(("norm.weight",), (20000,), "vector"),
        "b": WeightSpec(("w.bias",), (20000,), "vector"),
    }
    checkpoint = RandomCheckpoint(spec, 0, "float32")
    w, norm, bias = (checkpoint.read(name) for name in ("w.weight", "norm.weight", "w.bias"))
    assert w.shape == (1500, 1001)  # more than a block, and not a multiple of four
    assert abs(w.mean()) < 1e-4
    assert w.std() == pytest.approx(0.02, rel=0.01)
    assert abs(np.corrcoef(w[:-1].ravel(), w[1:].ravel())[0, 1]) < 0.01
    assert norm.mean() == pytest.approx(1, abs=0.01)
    assert norm.std() == pytest.approx(0.1, rel=0.05)
    assert bias.std() == pytest.approx(0.02, rel=0.05)


def test_random_weights_match_every_parameter() -> None:
    for raw in (RAW, TIED, RAW | {"attention_bias": True, "mlp_bias": True}):
        specs = specs_of(raw)
        assert set(match_weights(specs, RandomCheckpoint(specs, 0, "float16")).names) == set(specs)


def test_random_weights_refuse_bad_options() -> None:
    with pytest.raises(ValueError, match="supported: float32, float16, bfloat16"):
        RandomCheckpoint({}, 0, "int8")
    with pytest.raises(ValueError, match="must not be negative"):
        RandomCheckpoint({}, -1, "float32")


# ----------------------------------------------------------------------------------------------------------- preflight
def tokenizer_json(tokens: int) -> str:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({f"t{i}": i for i in range(tokens)}, unk_token="t0")).to_str()


def errors(path: Path) -> list[str]:
    return [str(problem) for problem in check_model(path) if problem.severity == "error"]


def test_check_of_a_good_model(tmp_path: Path) -> None:
    write_model(tmp_path, RAW, tensors_of(RAW, "float16"))
    (tmp_path / "tokenizer.json").write_text(tokenizer_json(24))
    (tmp_path / "generation_config.json").write_text("{}")
    problems = check_model(tmp_path)
    assert [problem.severity for problem in problems] == ["note"]
    assert "weights take" in problems[0].what
    (tmp_path / "tokenizer.json").unlink()
    assert [problem.severity for problem in check_model(tmp_path)] == ["note", "warning"]


def test_check_lists_problems_of_every_part(tmp_path: Path) -> None:
    write_model(tmp_path, RAW | {"rope_tetha": 1}, tensors_of(RAW))
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "generation_config.json").write_text("[]")
    found = errors(tmp_path)
    assert len(found) == 4
    for part, expected in zip(found, ("rope_tetha", "model.safetensors", "tokenizer.json", "generation"), strict=True):
        assert expected in part


def test_check_compares_tokenizer_and_vocabulary(tmp_path: Path) -> None:
    write_model(tmp_path, RAW, tensors_of(RAW))
    (tmp_path / "tokenizer.json").write_text(tokenizer_json(30))
    assert errors(tmp_path) == [
        "the tokenizer has token id 29: vocab_size in config.json is 24; tokenizer and config must be of one model"
    ]


def test_check_of_no_model(tmp_path: Path) -> None:
    assert "not a model directory" in errors(tmp_path)[0]
