"""Architectures from outside of the tree: a model file, an installed package; their errors, and the build cache."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from heddle.cli import main
from heddle.compiler import driver
from heddle.compiler.driver import compile_model
from heddle.llm import LLM
from heddle.models import ARCHITECTURES, plugins
from heddle.models.check import check_model
from heddle.models.plugins import code_digest, load_installed, load_model_file
from heddle.models.problems import ModelError
from heddle.runtime.errors import HeddleError, RequestError
from heddle.runtime.sampling import SamplingParams
from tests.conftest import ROOT

MODEL = ROOT / "examples" / "tinydoc"
FAMILY = '''"""A Llama of another name."""
from heddle.models.decoder import register_decoder
from heddle.models.families.llama import IGNORED, TABLE, llama_config

register_decoder("{name}ForCausalLM", "{name}", llama_config, TABLE, ignored=IGNORED)
'''


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a test registers is gone behind it; compiled models go to a cache of its own."""
    monkeypatch.setenv("HEDDLE_CACHE", str(tmp_path / "cache"))
    known, imported = dict(ARCHITECTURES), set(sys.modules)
    state = [(part, part.copy()) for part in (plugins._digests, plugins._files, plugins._installed)]
    yield
    ARCHITECTURES.clear()
    ARCHITECTURES.update(known)
    for part, before in state:
        part.clear()
        part.update(before)
    for name in set(sys.modules) - imported:
        if name.startswith(("heddle_model_file_", "acme")):
            del sys.modules[name]


def family(path: Path, name: str = "acme", more: str = "") -> Path:
    """A model file that registers one architecture."""
    path.write_text(FAMILY.format(name=name) + more)
    return path


def model(path: Path, name: str = "acme") -> Path:
    """The example model under the name of another architecture."""
    shutil.copytree(MODEL, path)
    config = json.loads((path / "config.json").read_text())
    config |= {"architectures": [f"{name}ForCausalLM"], "model_type": name}
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.slow  # the tutorial's test does it by default
def test_a_model_file_serves_its_architecture(tmp_path: Path, tinydoc: Path) -> None:
    path, file = model(tmp_path / "model"), family(tmp_path / "acme.py")
    with pytest.raises(ModelError, match='unknown architecture "acmeForCausalLM"'):
        LLM(path)
    params = SamplingParams(max_tokens=8, temperature=0)
    mine = LLM(path, model_file=file, max_tokens=64, max_seqs=4)
    assert mine.artifact.manifest.model.architecture == "acmeForCausalLM"
    found, expected = mine.generate("The command", params), LLM(tinydoc).generate("The command", params)
    assert found[0].outputs[0].token_ids == expected[0].outputs[0].token_ids
    again = LLM(mine.artifact.path)  # an artifact needs no model file
    assert again.generate("The command", params)[0].outputs[0].token_ids == expected[0].outputs[0].token_ids


def test_an_artifact_takes_no_model_file(tmp_path: Path, tinydoc: Path) -> None:
    with pytest.raises(RequestError, match="model_file"):
        LLM(tinydoc, model_file=family(tmp_path / "acme.py"))


def test_the_key_of_the_cache_has_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, file, keys = model(tmp_path / "model"), family(tmp_path / "acme.py"), []

    def find(key: str, build: object, *, rebuild: bool) -> Path:
        keys.append((key, rebuild))
        return path

    monkeypatch.setattr(driver.build_cache, "find_or_build", find)
    compile_model(path, model_file=file)
    compile_model(path, model_file=file)
    family(file, more="# edited\n")
    compile_model(path, model_file=file)
    plugins._digests.clear()  # as if somebody's own code had registered it
    compile_model(path)
    (first, _), second, (edited, _), (_, unknown) = keys
    assert second == (first, False)
    assert edited != first
    assert unknown, "what nothing is known of is compiled again"


@pytest.mark.slow
def test_the_cache_knows_the_file(tmp_path: Path) -> None:
    path, file = model(tmp_path / "model"), family(tmp_path / "acme.py")
    sizes = {"max_tokens": 16, "max_seqs": 2}
    first = compile_model(path, model_file=file, **sizes)
    written = (first / "manifest.json").stat().st_mtime_ns
    assert compile_model(path, model_file=file, **sizes) == first
    assert (first / "manifest.json").stat().st_mtime_ns == written, "it was not compiled again"
    family(file, more="# edited\n")
    assert compile_model(path, model_file=file, **sizes) != first
    plugins._digests.clear()  # as if somebody's own code had registered it
    alone = compile_model(path, **sizes)
    written = (alone / "manifest.json").stat().st_mtime_ns
    assert compile_model(path, **sizes) == alone
    assert (alone / "manifest.json").stat().st_mtime_ns > written, "unknown code is compiled again"


def test_an_edited_file_replaces_what_it_had_registered(tmp_path: Path) -> None:
    file = family(tmp_path / "acme.py")
    load_model_file(file)
    before, digest = ARCHITECTURES["acmeForCausalLM"], code_digest("acmeForCausalLM")
    load_model_file(file)
    assert ARCHITECTURES["acmeForCausalLM"] is before
    family(file, more="X = 1\n")
    load_model_file(file)
    assert ARCHITECTURES["acmeForCausalLM"] is not before
    assert code_digest("acmeForCausalLM") not in (digest, "", None)
    family(file, "other")
    load_model_file(file)
    assert "acmeForCausalLM" not in ARCHITECTURES
    assert code_digest("LlamaForCausalLM") == ""
    assert code_digest("acmeForCausalLM") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere_to_be_found", "nowhere_to_be_found"),
        ("x = 1 +", "SyntaxError"),
        ("x = 1", "registers no architecture"),
        (FAMILY.format(name="acme") * 2, "acmeForCausalLM is registered twice"),
        (FAMILY.format(name="acme") + "raise SystemError('late')", "SystemError: late"),
        (FAMILY.replace("{name}ForCausalLM", "LlamaForCausalLM").format(name="llama"), "registered twice"),
    ],
)
def test_bad_files_are_explained_and_leave_nothing(tmp_path: Path, text: str, message: str) -> None:
    file, known = tmp_path / "bad.py", dict(ARCHITECTURES)
    file.write_text(text)
    with pytest.raises(ModelError, match=message):
        load_model_file(file)
    assert known == ARCHITECTURES
    with pytest.raises(ModelError, match="not a model file"):
        load_model_file(tmp_path / "absent.py")


def test_entry_points_are_asked_for_what_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "acme"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    family(package / "models.py")
    info = tmp_path / "site" / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[heddle.models]\nacme = acme.models\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()
    assert check_model(MODEL)
    assert "acme.models" not in sys.modules, "a known architecture asks nobody"
    path = model(tmp_path / "model")
    assert not [problem for problem in check_model(path) if problem.severity == "error"]
    digest = code_digest("acmeForCausalLM")
    assert digest
    load_installed()  # once is enough
    assert code_digest("acmeForCausalLM") == digest
    (info / "entry_points.txt").write_text("[heddle.models]\nbad = acme.nothing\n")
    with pytest.raises(ModelError, match=r"bad = acme\.nothing"):
        load_installed()


def test_the_command_line_takes_a_model_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, file = model(tmp_path / "model"), family(tmp_path / "acme.py")

    def call(*args: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as done:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return int(done.value.code or 0), captured.out + captured.err

    code, text = call("check", path)
    assert (code, "unknown architecture" in text) == (1, True)
    code, text = call("check", path, "--model-file", tmp_path / "absent.py", "--json")
    whats = [problem["what"] for problem in json.loads(text)["problems"]]
    assert code == 1
    assert {"not a model file", 'unknown architecture "acmeForCausalLM"'} <= set(whats), "all problems at once"
    assert call("check", path, "--model-file", file)[0] == 0
    seen = []

    def compile_model(*_: object, model_file: Path, **__: object) -> Path:
        seen.append(model_file)
        raise HeddleError("seen")

    monkeypatch.setattr(driver, "compile_model", compile_model)
    for verb in ("compile", "run", "serve", "chat"):
        code, text = call(verb, path, *["hello"] * (verb == "run"), "--model-file", file)
        assert (code, "seen" in text) == (1, True)
    assert seen == [file] * 4
