"""What `quant` may be: the choice of schemes for a model, bad input found before any work, the build cache, the command line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from heddle.compiler import build_cache, driver
from heddle.compiler.driver import compile_model, read_source
from heddle.compiler.quant import choose_schemes, model_sites, names, parse_options
from heddle.models import RandomCheckpoint, architecture
from heddle.runtime.errors import HeddleError
from heddle.schedules import target as targets
from heddle.schedules.target import TargetProfile
from tests.artifact_tools import copy_artifact, edit_manifest
from tests.conftest import ROOT
from tests.test_cli import call

TINYDOC = ROOT / "examples" / "tinydoc"
RAW = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 24,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def save(
    path: Path, damage: dict[str, tuple[tuple[int, int], float]] | None = None, dtype: str = "float32", **raw: Any
) -> Path:
    """A random checkpoint; `damage` puts a value at a position of a tensor."""
    config = RAW | raw
    arch = architecture(config)
    checkpoint = RandomCheckpoint(arch.weights(arch.config(config)), 7, dtype)
    tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    for name, (position, value) in (damage or {}).items():
        tensors[name][position] = value
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")
    return path


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The message of a refused compilation, which has written nothing and not begun to lower."""
    monkeypatch.setenv("HEDDLE_CACHE", str(tmp_path / "cache"))

    def never(*args: object, **kwargs: object) -> None:
        pytest.fail("the work has begun")

    for work in ("build_variants", "ArtifactWriter"):
        monkeypatch.setattr(driver, work, never)

    def ask(source: Path, quant: Any, **options: Any) -> str:
        with pytest.raises(HeddleError) as error:
            compile_model(source, tmp_path / "out.heddle", quant=quant, **options)
        with pytest.raises(HeddleError):
            compile_model(source, quant=quant, **options)  # into the build cache
        assert not (tmp_path / "out.heddle").exists()
        assert build_cache.entries() == []
        return str(error.value)

    return ask


# -------------------------------------------------------------------------------------------------------------- choices
@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return model_sites(read_source(save(tmp_path_factory.mktemp("sites") / "model")).specs)


def test_sites_of_a_model(sites: dict[str, str]) -> None:
    linears = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up", "mlp.down")
    assert set(sites) == {"embed", "lm_head", *(f"layers.{i}.{part}" for i in (0, 1) for part in linears)}
    assert sites["embed"] == sites["lm_head"] == "embed.weight"


@pytest.mark.parametrize(
    ("quant", "embed", "head", "q"),
    [
        (None, "none", "none", "none"),
        ("none", "none", "none", "none"),
        ({}, "none", "none", "none"),
        ("w4a8", "w8a8-pc", "w8a8-pc", "w4a8-g32"),
        ("w4a16-g64", "w8a16-pc", "w8a16-pc", "w4a16-g64"),
        ("w4a16-f32", "w8a16-pc-f32", "w8a16-pc-f32", "w4a16-g32-f32"),
        ({"*": "w4a8"}, "w4a8-g32", "w4a8-g32", "w4a8-g32"),
        ({"*": "w4a8", "lm_head": "none"}, "none", "none", "w4a8-g32"),
        ({"*": "w4a8", "lm_head": "w8a16"}, "w8a16-pc", "w8a16-pc", "w4a8-g32"),
        ({"*": "w4a8", "embed": "w8a8"}, "w8a8-pc", "w4a8-g32", "w4a8-g32"),
        ({"embed": "w8a8"}, "w8a8-pc", "none", "none"),
        ({"layers.*": "w4a8", "layers.*.q": "none"}, "none", "none", "none"),
        ({"lm_head": "w8a8", "*.q": "w4a8"}, "w8a8-pc", "w8a8-pc", "w4a8-g32"),
    ],
)
def test_a_tied_table_goes_with_the_head(sites: dict[str, str], quant: Any, embed: str, head: str, q: str) -> None:
    found = names(choose_schemes(quant, sites), sites)
    assert (found["embed"], found["lm_head"], found["layers.1.attn.q"]) == (embed, head, q)
    assert list(found) == list(sites)


def test_tables_apart_have_schemes_of_their_own(sites: dict[str, str]) -> None:
    apart = sites | {"lm_head": "lm_head.weight"}
    found = names(choose_schemes({"*": "w4a8", "lm_head": "w8a16"}, apart), apart)
    assert (found["embed"], found["lm_head"]) == ("w4a8-g32", "w8a16-pc")


@pytest.mark.parametrize(
    ("options", "quant"),
    [
        ([], None),
        (["w4a8"], "w4a8"),
        (["lm_head=w8a16", "layers.*=w4a8"], {"lm_head": "w8a16", "layers.*": "w4a8"}),
        (["w4a8", "lm_head=w4a8"], {"*": "w4a8", "lm_head": "w4a8", "embed": "w4a8"}),
        (["w4a8", "embed=w8a16"], {"*": "w4a8", "lm_head": "w8a8", "embed": "w8a16"}),
        (["*.down=none", "w4a16"], {"*": "w4a16", "lm_head": "w8a16", "embed": "w8a16", "*.down": "none"}),
        (["w4a8", "*=w8a8"], {"*": "w8a8", "lm_head": "w8a8", "embed": "w8a8"}),
    ],
)
def test_options_of_the_command_line(options: list[str], quant: Any) -> None:
    assert parse_options(options) == quant


# ------------------------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("quant", "words"),
    [
        ("w4a7", "unknown quantization scheme 'w4a7'.*w4a16, w4a8, w8a8, w8a16.*leaves a site as the checkpoint"),
        ("", "unknown quantization scheme ''"),
        ({"*": "w8a8-2l"}, r"quant\['\*'\].*two-level scales are for 4-bit weights"),
        ({"*": "w4a8", "layers.*.mlp.dwon": "w8a8"}, r"'layers\.\*\.mlp\.dwon' matches no site.*layers\.\*\.mlp\.down"),
        ({"layers.2.*": "w4a8", "mlp": "w8a8"}, r"'layers\.2\.\*', 'mlp' match no site"),
        ({"*.q": "w4a8", "*q.": "w8a8"}, r"'\*q\.' matches no site"),
        ({"*attn.q": "w4a8", "layers*": "w8a8"}, "equally specific about the site 'layers.0.attn.q'"),
    ],
)
def test_a_bad_quant(refused: Callable[..., str], tmp_path: Path, quant: Any, words: str) -> None:
    message = refused(save(tmp_path / "model"), quant).replace("\n", " ")
    assert re.search(words, message), message


def test_groups_that_do_not_divide_are_listed_at_once(refused: Callable[..., str], tmp_path: Path) -> None:
    source = save(tmp_path / "model", hidden_size=64, intermediate_size=100)
    message = refused(source, {"*": "w4a8-g128", "lm_head": "w8a8", "*.down": "w4a16", "*.o": "w8a8-g64"})
    assert "w4a8-g128 does not fit layers.0.attn.q, layers.1.attn.q, layers.0.attn.k and 7 more" in message
    assert "groups of 128 do not divide 64 columns; choose g32 or g64 or pc" in message
    assert "w4a16-g32 does not fit layers.0.mlp.down, layers.1.mlp.down" in message
    assert "100 columns are no multiple of 32" in message
    assert "give these another scheme, as in --quant 'layers.*.mlp.down=w8a8'" in message
    assert "attn.o" not in message


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_that_are_not_finite_are_named(refused: Callable[..., str], tmp_path: Path, dtype: str) -> None:
    damage = {
        "model.layers.1.mlp.down_proj.weight": ((63, 95), float("inf")),
        "model.layers.0.self_attn.q_proj.weight": ((2, 5), float("nan")),
        "model.embed_tokens.weight": ((23, 0), float("-inf")),
    }
    message = refused(save(tmp_path / "model", damage, dtype), "w4a8")
    assert "model.layers.1.mlp.down_proj.weight[63, 95] is inf" in message
    assert "model.layers.0.self_attn.q_proj.weight[2, 5] is nan" in message
    assert message.count("model.embed_tokens.weight[23, 0] is -inf") == 1, "embedding and head are one table"
    assert "it cannot be quantized" in message


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_values_are_finite(refused: Callable[..., str], tmp_path: Path, dtype: str) -> None:
    """Nothing but the NaN is named."""
    most = float(ml_dtypes.finfo(DTYPES[dtype]).max)
    damage = {
        "model.layers.0.mlp.up_proj.weight": ((0, 0), most),
        "model.layers.0.mlp.gate_proj.weight": ((0, 0), -most),
        "model.layers.1.mlp.up_proj.weight": ((1, 2), float("nan")),
    }
    message = refused(save(tmp_path / "model", damage, dtype), "w4a8")
    assert "layers.1.mlp.up_proj.weight[1, 2] is nan" in message
    assert "layers.0" not in message


def test_weights_that_stay_may_be_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not quantized is not looked at."""

    class Began(Exception):
        pass

    def began(*args: object) -> None:
        raise Began

    monkeypatch.setattr(driver, "ArtifactWriter", began)
    source = save(tmp_path / "model", {"model.layers.0.self_attn.q_proj.weight": ((2, 5), float("nan"))})
    for quant in (None, {"*": "w4a8", "*.q": "none"}):
        with pytest.raises(Began):
            compile_model(source, tmp_path / "out.heddle", quant=quant)


def test_a_target_without_kernels(refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = TargetProfile("riscv", "riscv64", (("kind", "llvm"),), frozenset(), 128, 32)
    monkeypatch.setitem(targets.PROFILES, "riscv", other)
    message = refused(save(tmp_path / "model"), "w4a8", target="riscv")
    assert "w4a8-g32 does not fit layers.0.attn.q, layers.1.attn.q, layers.0.attn.k and 11 more" in message
    assert "are for x86_64 and aarch64, riscv is riscv64" in message


# ------------------------------------------------------------------------------------------------------- the build cache
def test_equal_quants_are_built_once(tinydoc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDDLE_CACHE", str(tmp_path / "cache"))
    built: list[dict[str, str]] = []

    def fake(source: Any, profiles: Any, options: Any, output: Path, seconds: Any, progress: Any) -> Path:
        built.append(options.schemes)
        return Path(shutil.copytree(tinydoc, output, dirs_exist_ok=True))

    monkeypatch.setattr(driver, "_build", fake)
    source = save(tmp_path / "model")
    quants: list[Any] = [
        "w4a8",
        "w4a8-g32",
        {"*": "w4a8", "lm_head": "w8a8"},
        {"lm_head": "w8a8-pc", "embed": "w8a8", "layers.*": "w4a8-g32"},
    ]
    assert len({compile_model(source, quant=quant) for quant in quants}) == len(built) == 1
    others: list[Any] = [
        None,
        "w4a16",
        "w4a8-pc",
        {"*": "w4a8"},
        {"*": "w4a8", "embed": "w8a8"},
        {"*": "w4a8", "*.q": "none"},
    ]
    assert len({compile_model(source, quant=quant) for quant in ["w4a8", *others]}) == len(built) == 1 + len(others)
    assert compile_model(source, quant="none") == compile_model(source)
    assert compile_model(source, quant={}) == compile_model(source)
    assert len(built) == 1 + len(others)


# ------------------------------------------------------------------------------------------------------ the command line
@pytest.fixture
def compiled(tinydoc: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The quants of all compilations, none of which takes place."""
    asked: list[Any] = []

    def fake(source: Path, output: Path | None = None, **options: Any) -> Path:
        asked.append(options.get("quant"))
        return tinydoc

    monkeypatch.setattr(driver, "compile_model", fake)
    return asked


FORMS: list[tuple[list[str], Any]] = [
    (["--quant", "w4a8"], "w4a8"),
    (
        ["--quant", "lm_head=w8a16", "--quant", "layers.*.mlp.down=w8a8"],
        {"lm_head": "w8a16", "layers.*.mlp.down": "w8a8"},
    ),
    (["--quant", "w4a8", "--quant", "lm_head=w4a8"], {"*": "w4a8", "lm_head": "w4a8", "embed": "w4a8"}),
    ([], None),
]


@pytest.mark.parametrize(("options", "quant"), FORMS)
def test_verbs_take_quant(
    capsys: pytest.CaptureFixture[str], compiled: list[Any], tmp_path: Path, options: list[str], quant: Any
) -> None:
    text = tmp_path / "text.txt"
    text.write_text((ROOT / "LICENSE").read_text()[:400])
    assert call(capsys, "compile", TINYDOC, *options)[0] == 0
    assert call(capsys, "run", TINYDOC, "The", "--max-tokens", 2, *options)[0] == 0
    code, out, _ = call(capsys, "eval", "perplexity", TINYDOC, "--text", text, "--window", 64, *options)
    assert (code, "perplexity" in out) == (0, True)
    assert compiled[-1:] == [quant]
    assert [c for c in compiled if c is not None] == ([quant] * 3 if quant else [])


def test_inspect_prints_the_schemes(capsys: pytest.CaptureFixture[str], tinydoc: Path, tmp_path: Path) -> None:
    artifact = copy_artifact(tinydoc, tmp_path)
    schemes = {
        "embed": "w8a8-pc",
        "layers.0.attn.q": "w4a8-g32",
        "layers.1.attn.q": "w8a8-pc",
        "layers.0.attn.k": "none",
    }
    edit_manifest(artifact, lambda raw: raw["model"].update(schemes=schemes))
    code, out, _ = call(capsys, "inspect", artifact)
    lines = [line.strip() for line in out.splitlines()]
    assert code == 0
    stored = json.loads((artifact / "manifest.json").read_text())["model"]["weight_dtype"]
    for line in ("embed: w8a8-pc", "layers.*.attn.q: w4a8-g32, w8a8-pc", f"layers.*.attn.k: {stored}"):
        assert line in lines
    assert json.loads(call(capsys, "inspect", artifact, "--json")[1])["model"]["schemes"] == schemes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--quant", "w4a9"], "unknown quantization scheme 'w4a9'"),
        (["--quant", "w4a8", "--quant", "w8a8"], "several schemes for the whole model: w4a8, w8a8"),
        (["--quant", "layers.99.*=w4a8"], "matches no site of this model"),
        (["--quant", "w4a8", "--quant", "lm_head="], "unknown quantization scheme ''"),
        (["--quant", "w4a8-g256"], "unknown quantization scheme 'w4a8-g256'"),
    ],
)
def test_errors_of_the_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], words: str
) -> None:
    code, out, err = call(capsys, "compile", TINYDOC, "-o", tmp_path / "out.heddle", *options)
    assert (code, out) == (1, "")
    assert words in err
    assert "Traceback" not in err
    assert not (tmp_path / "out.heddle").exists()


def test_an_artifact_refuses_another_quant(capsys: pytest.CaptureFixture[str], tinydoc: Path) -> None:
    code, _, err = call(capsys, "run", tinydoc, "The", "--quant", "w4a8")
    assert code == 1
    assert "was compiled with the scheme 'none' at embed, asked for is 'w8a8-pc'" in err
