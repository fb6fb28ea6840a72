"""`heddle export`: models in any readable format as Hugging Face directories that transformers loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from heddle.cli import cli
from heddle.compiler.driver import compile_model
from heddle.models import open_checkpoint, open_source
from heddle.models.export import export_model
from heddle.models.pooling import pooling_files, read_pooling
from heddle.runtime.errors import HeddleError
from tests.checkpoint_tools import CONFIG, quantize_gptq
from tests.conftest import ROOT
from tests.model_tools import Sequences, reference_logits, relative_error, runner_of, save_random
from tests.test_mlc import write as write_mlc
from tests.test_pooling import sentence_transformer

MODEL = ROOT / "examples" / "tinydoc"


def loaded(path: Path) -> Any:
    """The model by transformers, which must miss nothing and leave nothing over."""
    model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


def test_a_quantized_checkpoint_in_shards(tmp_path: Path) -> None:
    save_random(tmp_path / "m", CONFIG)
    values = quantize_gptq(tmp_path / "m")
    args = ["export", str(tmp_path / "m"), "-o", str(tmp_path / "out"), "--shard-gb", "0.0001", "--json"]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)
    assert said["source"] == "Hugging Face directory"
    assert said["bytes"] == sum(file.stat().st_size for file in (tmp_path / "out").glob("model-*.safetensors"))
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) == 2
    model = loaded(tmp_path / "out")
    assert model.dtype == torch.float16
    state = model.state_dict()
    assert set(state) == set(values)
    for name, value in values.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0)


def test_other_formats_and_types(tmp_path: Path) -> None:
    expected = write_mlc(tmp_path / "mlc", "qwen2", "q4f16_1")
    export_model(open_source(tmp_path / "mlc"), tmp_path / "a" / "out", dtype="float32")
    state = loaded(tmp_path / "a" / "out").state_dict()
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name].numpy(), value.astype(np.float32))
    torch.save({"x": torch.arange(3), "w": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", "torch_dtype": "bfloat16"}))
    out = export_model(open_source(tmp_path), tmp_path / "out", dtype="float16")
    assert json.loads((out / "config.json").read_text()) == {"model_type": "x", "dtype": "float16"}
    checkpoint = open_checkpoint(out)
    assert {name: info.dtype for name, info in checkpoint.tensors.items()} == {"x": "int64", "w": "float16"}
    with safe_open(out / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == {"x", "w"}


def test_dense_layers_of_sentence_transformers_come_along(tmp_path: Path) -> None:
    folder = shutil.copytree(MODEL, tmp_path / "m")
    sentence_transformer(folder, "Pooling", "Dense")
    out = export_model(open_source(folder), tmp_path / "out")
    (given,), (found,) = (read_pooling(pooling_files(path), path).layers for path in (folder, out))
    np.testing.assert_array_equal(found.weight, given.weight)


def test_the_tokenizer_comes_along_and_nothing_is_overwritten(tmp_path: Path) -> None:
    out = export_model(open_source(MODEL), tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (MODEL / name).read_bytes()
    with pytest.raises(HeddleError, match="exists already"):
        export_model(open_source(MODEL), out)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    with pytest.raises(HeddleError, match="no weights"):
        export_model(open_source(tmp_path / "broken"), tmp_path / "never")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken", "out"]


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["none", "keep-a16"])
def test_a_quantized_checkpoint_gives_the_logits_of_its_values(tmp_path: Path, quant: str) -> None:
    save_random(tmp_path / "m", CONFIG)
    quantize_gptq(tmp_path / "m")
    export_model(open_source(tmp_path / "m"), tmp_path / "values")
    artifact = compile_model(tmp_path / "m", tmp_path / "m.heddle", quant=quant, kv_dtype="float32", dtype="float32")
    tokens = [np.arange(1, 1 + n, dtype=np.int32) for n in (5, 33)]
    sequences = Sequences(runner_of(artifact), tokens)
    expected = reference_logits(tmp_path / "values", tokens)
    for actual, wanted in zip(sequences.finish(16), expected, strict=True):
        # 15-bit activations differ from floats by 2**-15 of a row's largest; kept codes by nothing
        assert relative_error(actual, wanted) < (1e-4 if quant == "none" else 5e-3)
