"""Torch modules as artifacts: numbers against torch, arguments that do not fit, and modules that cannot be compiled."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import heddle
from heddle.cli import main
from heddle.compiler.torch_export import child
from heddle.models.problems import ModelError, error
from heddle.runtime.artifact import open_artifact, open_module
from heddle.runtime.errors import ArtifactError, HeddleError, ManifestError, RequestError
from heddle.runtime.module import Module
from tests.conftest import ROOT

MODULES = ROOT / "tests" / "torch_modules.py"


def compiled(tmp_path: Path, function: str, **options: Any) -> Module:
    """The artifact of a function of torch_modules.py, loaded."""
    path = heddle.compile_torch(f"{MODULES}:{function}", tmp_path / f"{function}.heddle", **options)
    return heddle.load_module(path, threads=2)


def reference(function: str) -> Callable[..., Any]:
    """The module of a function on NumPy arrays, by torch."""
    made = getattr(importlib.import_module("tests.torch_modules"), function)()
    net = made.module() if isinstance(made, torch.export.ExportedProgram) else made[0].eval()

    def call(*arrays: np.ndarray) -> Any:
        with torch.no_grad():
            result = net(*(torch.from_numpy(array) for array in arrays))
        if isinstance(result, dict):
            return {name: value.numpy() for name, value in result.items()}
        return tuple(value.numpy() for value in result) if isinstance(result, tuple) else result.numpy()

    return call


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """max|a - b| / max|b|, infinite where type or shape differ."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return np.inf
    return float(np.abs(a.astype(np.float64) - b).max(initial=0) / (np.abs(b.astype(np.float64)).max(initial=0) or 1))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Module:
    """`Text`, compiled once."""
    return compiled(tmp_path_factory.mktemp("text"), "text")


@pytest.mark.parametrize(("batch", "seq"), [(1, 2), (2, 7), (5, 64), (3, 17)])
def test_a_transformer_gives_what_torch_gives(text: Module, batch: int, seq: int) -> None:
    rng = np.random.default_rng(batch)
    ids, mask = rng.integers(0, 97, (batch, seq)), np.zeros((batch, seq), bool)
    mask[1:, seq - seq // 3 :] = True
    found, expected = text(ids, mask), reference("text")(ids, mask)
    assert list(found) == list(expected) == ["logits", "best", "padded"]
    # PyTorch's fast path gives zeros for padding, the exported program what the rows compute.
    kept = ~mask
    assert difference(found["logits"][kept], expected["logits"][kept]) < 1e-5
    assert found["best"].dtype == np.int64
    assert (found["best"] == found["logits"].argmax(-1)).all()
    assert (found["padded"] == expected["padded"]).all()
    assert text.manifest.difference < 1e-5


def test_an_empty_batch_has_empty_results(text: Module) -> None:
    kept = []
    for _ in range(8):  # NumPy puts them to places of any alignment
        found = text(np.zeros((0, 3), np.int64), np.zeros((0, 3), bool))
        assert [array.shape for array in found.values()] == [(0, 3, 97), (0, 3), (0,)]
        kept.append(np.zeros(7, np.uint8))


def test_linears_run_on_kernels_and_names_are_kept(text: Module) -> None:
    assert set(text.manifest.schemes) == {
        "layer.self_attn.in_proj_weight",
        "layer.self_attn.out_proj",
        "layer.linear1",
        "layer.linear2",
        "head",
    }
    assert "layer.linear1.weight.tile32" in text.manifest.params
    assert text.signature == (
        "(ids: int64[batch, seq], mask: bool[batch, seq]) with batch from 0 to 5, seq from 2 to 64"
    )
    assert "logits: float32[batch, seq, 97]" in repr(text)


def test_arguments_may_be_named_and_need_not_be_aligned(text: Module) -> None:
    ids, mask = np.arange(21).reshape(3, 7), np.zeros((3, 7), bool)
    expected = text(ids, mask)["logits"]
    strided = np.repeat(ids, 2, axis=1)[:, ::2]
    strided.flags.writeable = False
    assert (text(mask=mask, ids=strided)["logits"] == expected).all()
    for size in range(2, 40):  # more shapes than are remembered
        text(np.zeros((1, size), np.int64), np.zeros((1, size), bool))
    assert (text(ids, mask=mask)["logits"] == expected).all()


def test_indices_out_of_bounds_read_no_foreign_memory(text: Module) -> None:
    ids = np.array([[5, 97, 1 << 40], [1, 2, 3]])
    logits = text(ids, np.zeros((2, 3), bool))["logits"]
    assert np.isnan(logits[0]).all()
    assert np.isfinite(logits[1]).all()


def test_arguments_that_do_not_fit_are_listed_at_once(text: Module) -> None:
    with pytest.raises(RequestError) as caught:
        text(np.zeros((6, 4), np.int32), other=1)
    message = str(caught.value)
    for part in (
        "other is no argument",
        "ids is int32, not int64",
        "dimension 0 of ids is 6; batch from 0 to 5",
        "mask is missing",
        "the module takes (ids: int64[batch, seq]",
    ):
        assert part in message
    with pytest.raises(RequestError, match="dimension 1 of mask is 4, but seq was 5 before"):
        text(np.zeros((2, 5), np.int64), np.zeros((2, 4), bool))
    with pytest.raises(RequestError, match=r"ids is a list.*mask has 1 dimensions, not 2"):
        text([[1]], np.zeros(3, bool))
    with pytest.raises(RequestError, match=r"3 arguments are given.*mask is given twice"):
        text(np.zeros((2, 5), np.int64), np.zeros((2, 5), bool), 3, mask=np.zeros((2, 5), bool))


def test_each_kind_of_artifact_is_opened_by_its_own(text: Module, tinydoc: Path) -> None:
    path = Path(text._code.path).parent
    with pytest.raises(ManifestError, match="compiled torch module"):
        heddle.load(path)
    with pytest.raises(ManifestError, match="language model"):
        heddle.load_module(tinydoc)
    with pytest.raises(ManifestError, match="compiled torch module"):
        open_artifact(path)
    with pytest.raises(ArtifactError, match="not an artifact"):
        heddle.load_module(ROOT)
    assert open_module(path, "full").manifest == text.manifest


def test_inspect_shows_a_module(text: Module, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(text._code.path).parent
    for options, parts in (((), ("linear head: as stored", "packed_linear x5", "ids: int64")), (("--json",), ())):
        with pytest.raises(SystemExit) as done:
            main(["inspect", str(path), *options])
        out = capsys.readouterr().out
        assert done.value.code == 0
        assert all(part in out for part in parts)
    assert json.loads(out)["returns"] == "dict"


def test_damaged_manifests_name_the_field(text: Module, tmp_path: Path) -> None:
    raw = json.loads(text.manifest.to_json())
    for change, message in (
        ({"params": ["nobody"]}, "nobody"),
        ({"returns": "list"}, "returns is 'list'"),
        ({"format_version": 99}, "format_version is 99"),
        ({"files": {}}, "weights.file needs"),
        ({"files": raw["files"] | {"../x": {"sha256": "", "bytes": 0}}}, "points outside of the artifact"),
        ({"target": raw["target"] | {"weights": "other"}}, "target.weights is 'other'"),
        ({"surprise": 1}, "surprise is not a known field"),
        ({"dims": {"batch": {"least": 1}}}, "most is missing"),
    ):
        with pytest.raises(ManifestError, match=message):
            type(text.manifest).from_json(json.dumps(raw | change))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch about itself
def test_all_that_is_unsupported_is_listed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # the program is run here, as its process runs it
    child.main(f"{MODULES}:unsupported", tmp_path)
    problems = json.loads((tmp_path / "result.json").read_text())["problems"]
    message = "\n".join(str(error(*problem)) for problem in problems)
    for part in (
        "operator _fft_r2c.default is not supported",
        "operator cholesky_inverse.default is not supported",
        "operator rand_like.default is not supported",
        "operator cond is not supported",
        "torch.where",
        "torch_modules.py",
        "count is changed by the module",
        "tensors of float64 are not supported: argument y",
        "argument flag is True, not a tensor",
    ):
        assert part in message
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("source", "message"),
    [("nowhere.py:f", "not a file"), ("nowhere.pt2", "not a file"), (str(MODULES.parent), "not a file")],
)
def test_sources_that_are_not_there(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        heddle.compile_torch(source, tmp_path / "out")
    with pytest.raises(HeddleError, match="dtype='int4' is not supported"):
        heddle.compile_torch(source, tmp_path / "out", dtype="int4")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("number", "returns int"),
        ("broken", "ValueError: surprise"),
        ("absent", "it has: .*text"),
        ("indices", "computes something else than torch"),
    ],
)
def test_bad_functions_are_explained(tmp_path: Path, function: str, message: str) -> None:
    with pytest.raises(HeddleError, match=message):
        heddle.compile_torch(f"{MODULES}:{function}", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        ("image", [[(1, 3, 17, 19)], [(16, 3, 17, 19)]]),
        ("mlp", [[(1, 256)], [(100, 256)], [(0, 256)]]),
        ("vector", [[(256,)]]),
        ("few", [[(3, 256)]]),
        ("sequence", [[(2, 4, 8), (1, 3, 5, 5)]]),
    ],
)
def test_modules_give_what_torch_gives(tmp_path: Path, function: str, shapes: list[list[tuple[int, ...]]]) -> None:
    module, expect = compiled(tmp_path, function), reference(function)
    rng = np.random.default_rng(0)
    for sizes in shapes:
        arrays = [rng.standard_normal(size, dtype=np.float32) for size in sizes]
        found, expected = module(*arrays), expect(*arrays)
        assert type(found) is type(expected)
        pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
        assert max(difference(a, b) for a, b in pairs) < 1e-5


@pytest.mark.slow
def test_a_classifier_of_transformers(tmp_path: Path) -> None:
    module, expect = compiled(tmp_path, "classifier"), reference("classifier")
    rng = np.random.default_rng(0)
    for batch, seq in ((1, 2), (8, 100), (3, 31)):
        ids, mask = rng.integers(0, 331, (batch, seq)), np.ones((batch, seq), np.int64)
        mask[1:, seq // 2 :] = 0
        assert difference(module(ids, mask), expect(ids, mask)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "limit", "size"),
    [({"dtype": "bfloat16"}, 1e-2, 0.6), ({"quant": "w8a8"}, 3e-2, 0.4), ({"quant": {"up": "w4a8"}}, 0.2, 0.6)],
)
def test_linears_may_be_stored_in_fewer_bits(
    tmp_path: Path, options: dict[str, Any], limit: float, size: float
) -> None:
    module, expect = compiled(tmp_path, "mlp", **options), reference("mlp")
    x = np.random.default_rng(1).standard_normal((9, 256), dtype=np.float32)
    assert 0 < difference(module(x)[0], expect(x)[0]) < limit
    assert module.manifest.difference < limit
    file = Path(module._code.path).parent / "weights.safetensors"
    assert file.stat().st_size < size * 4 * (256 * 512 + 512 * 128)
    with pytest.raises(HeddleError, match="match"):
        heddle.compile_torch(f"{MODULES}:mlp", tmp_path / "out", quant={"nowhere": "w8a8"})


@pytest.mark.slow
def test_a_saved_program_and_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = importlib.import_module("tests.torch_modules").few()
    torch.export.save(program, tmp_path / "few.pt2")
    with pytest.raises(SystemExit) as done:
        main(["compile-torch", str(tmp_path / "few.pt2"), "-o", str(tmp_path / "few.heddle"), "--json"])
    assert done.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["difference"] < 1e-5
    x = np.ones((3, 256), np.float32)
    assert difference(heddle.load_module(found["path"])(x)[0], reference("few")(x)[0]) < 1e-5
    (tmp_path / "bad.pt2").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"cannot be read by torch\.export\.load"):
        heddle.compile_torch(tmp_path / "bad.pt2", tmp_path / "out")


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "torch.md").read_text()
    build, use = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "model.py").write_text(build)
    heddle.compile_torch("model.py:build", "model.heddle")
    names: dict[str, Any] = {}
    exec(use, names)
    assert names["scores"].shape == (5, 10)
    assert "batch from 0 to 64" in capsys.readouterr().out
    links = re.findall(r"\]\(([^)#]+)", page)
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
