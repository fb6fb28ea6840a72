"""How a model makes one vector of a text: what sentence-transformers keeps beside the weights, and BERT's pooler.

modules.json lists what follows on the transformer: a pooling, dense layers, a normalization (Reimers and Gurevych 2019). Without
it the vector is the mean of the final hidden states, scaled to length 1.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import open_checkpoint
from .problems import ModelError, Problem, error, raise_errors
from .weights import TensorSource

MODULES, LENGTH, PROMPTS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
_MODES = {
    "mean_tokens": "mean",
    "cls_token": "cls",
    "lasttoken": "last",
    "max_tokens": "max",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean_tokens": "weightedmean",
}
_SUPPORTED = ("mean", "cls", "last")
_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "none",
    "torch.nn.modules.activation.Tanh": "tanh",
}
_REMOVE = f"remove {MODULES} to choose the pooling at each call"


@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """A layer over the pooled vector: activation(weight x + bias), weight float32 [out, in], bias float32 [out] or None."""

    weight: np.ndarray
    bias: np.ndarray | None
    activation: str


@dataclasses.dataclass(frozen=True)
class Pooling:
    """What becomes of hidden states: `mode` ("mean", "cls" or "last"), then `layers`, then perhaps length 1.

    `max_tokens` is how long a text its makers give to it, 0 where they do not say. `pooler` is BERT's layer over the first
    token, where the checkpoint has one.
    """

    mode: str = "mean"
    normalize: bool = True
    max_tokens: int = 0
    layers: tuple[Dense, ...] = ()
    pooler: tuple[Dense, ...] = ()

    def identity(self) -> str:
        """Hex digest of all but the pooler, which stands in the checkpoint."""
        digest = hashlib.sha256(repr((self.mode, self.normalize, self.max_tokens)).encode())
        for layer in self.layers:
            digest.update(repr((layer.activation, layer.weight.shape, layer.bias is None)).encode())
            for array in (layer.weight, layer.bias):
                digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def pooling_files(directory: Path) -> dict[str, bytes]:
    """The files of a model directory that say how to pool, by their paths in it; none where it has no modules.json."""
    names = [MODULES, LENGTH, PROMPTS] if (directory / MODULES).is_file() else []
    for module in _modules((directory / MODULES).read_bytes()) if names else []:
        folder = module.get("path")
        if isinstance(folder, str) and folder not in ("", "..") and Path(folder).name == folder:
            names.append(f"{folder}/config.json")  # nothing outside of the directory is read
    return {name: (directory / name).read_bytes() for name in names if (directory / name).is_file()}


def prompt_notes(files: Mapping[str, bytes]) -> list[Problem]:
    """A warning where sentence-transformers puts a prompt in front of every text, which is left to the caller here."""
    problems: list[Problem] = []
    config = _json(files, PROMPTS, problems) if PROMPTS in files else {}
    if (name := config.get("default_prompt_name")) is not None:
        what = f"{PROMPTS} has the default prompt {name!r:.80}"
        problems.append(
            Problem("warning", what, "texts are embedded as they are given", "put its text in front of each")
        )
    return problems


def dense_folders(files: Mapping[str, bytes]) -> list[str]:
    """The folders of a model directory that hold the weights of dense layers."""
    modules = _modules(files[MODULES]) if MODULES in files else []
    named = [str(m.get("path")) for m in modules if str(m.get("type")).endswith(".Dense")]
    return [folder for folder in named if f"{folder}/config.json" in files]


def read_pooling(
    files: Mapping[str, bytes],
    directory: Path,
    checkpoint: TensorSource | None = None,
    poolers: Sequence[str] = (),
) -> Pooling:
    """The pooling of a model by its `pooling_files`. ModelError lists everything that is unknown or unsupported.

    `poolers` are prefixes under which `checkpoint` may have BERT's pooler; weights of dense layers stand in `directory`.
    """
    found = [name for name in poolers if checkpoint is not None and f"{name}.weight" in checkpoint.tensors]
    pooler = tuple(_dense(checkpoint, name, "tanh") for name in found[:1] if checkpoint is not None)
    if MODULES not in files:
        return Pooling(pooler=pooler)
    problems: list[Problem] = []
    mode, normalize, layers = "", False, []
    for module in _modules(files[MODULES]):
        kind, folder = str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))
        config = _json(files, f"{folder}/config.json", problems) if kind in ("Pooling", "Dense") else {}
        if kind == "Transformer":
            continue
        if (kind == "Pooling") == bool(mode) or normalize:
            problems.append(error(f"{MODULES} has a {kind!r:.80} module where none is expected", _ORDER, _REMOVE))
        elif kind == "Pooling":
            mode = _mode(config, folder, problems)
        elif kind == "Dense":
            layers += _layer(config, directory / folder, problems)
        elif kind == "Normalize":
            normalize = True
        else:
            problems.append(error(f"{MODULES} has a module of the unknown type {kind!r:.80}", _ORDER, _REMOVE))
    length = _json(files, LENGTH, problems) if LENGTH in files else {}
    most = length.get("max_seq_length")
    if length.get("do_lower_case") and not _lowers(files):
        why = "the tokenizer does not make texts lower case by itself"
        problems.append(error(f"{LENGTH} asks for texts in lower case", why, "put a Lowercase normalizer there"))
    raise_errors(MODULES, problems)
    max_tokens = most if isinstance(most, int) and most > 0 else 0
    return Pooling(mode or "mean", normalize, max_tokens, tuple(layers), pooler)


_ORDER = "supported: Transformer, Pooling, any number of Dense, Normalize, in this order"


def _modules(data: bytes) -> list[Mapping[str, Any]]:
    """The modules of modules.json in order."""
    try:
        listed = json.loads(data)
    except ValueError as exception:
        raise ModelError(MODULES, [error("not valid JSON", str(exception), "download the file again")]) from exception
    if not isinstance(listed, list) or not all(isinstance(module, Mapping) for module in listed):
        raise ModelError(MODULES, [error("not a list of modules", "", "download the file again")])
    return listed


def _json(files: Mapping[str, bytes], name: str, problems: list[Problem]) -> Mapping[str, Any]:
    """An object among `files`; empty, and a problem, where there is none."""
    try:
        found = json.loads(files[name])
    except KeyError:
        problems.append(error(f"{name} is missing", f"{MODULES} has its module", "download it too"))
    except ValueError as exception:
        problems.append(error(f"{name} is not valid JSON", str(exception), "download the file again"))
    else:
        if isinstance(found, Mapping):
            return found
        problems.append(error(f"{name} is not a JSON object", "", "download the file again"))
    return {}


def _mode(config: Mapping[str, Any], folder: str, problems: list[Problem]) -> str:
    """The one pooling that a Pooling module does."""
    named = config.get("pooling_mode")
    modes = [named] if isinstance(named, str) else list(named) if isinstance(named, list) else []
    modes += [mode for key, mode in _MODES.items() if config.get(f"pooling_mode_{key}") is True and mode not in modes]
    modes = ["last" if mode == "lasttoken" else mode for mode in modes]
    if config and (len(modes) != 1 or modes[0] not in _SUPPORTED):
        what = f"{folder}/config.json pools by {' and '.join(map(str, modes)) or 'nothing'}"
        problems.append(error(what, f"supported: one of {', '.join(_SUPPORTED)}", _REMOVE))
    return str(modes[0]) if modes else "mean"


def _layer(config: Mapping[str, Any], folder: Path, problems: list[Problem]) -> list[Dense]:
    """The layer of a Dense module, in a list; an empty one where it has problems."""
    if not config:
        return []  # that was a problem
    activation = _ACTIVATIONS.get(str(config.get("activation_function")))
    if activation is None:
        what = f"{folder.name}/config.json has the activation {config.get('activation_function')!r:.80}"
        problems.append(error(what, f"supported: {', '.join(_ACTIVATIONS)}", _REMOVE))
    try:
        source = open_checkpoint(folder)
        layer = _dense(source, "linear", activation or "none")
    except ModelError as exception:
        problems += exception.problems
    except KeyError as exception:
        problems.append(error(f"{folder.name} has no tensor {exception}", "", "download its weights again"))
    else:
        return [layer]
    return []


def _dense(source: TensorSource, name: str, activation: str) -> Dense:
    """The layer under `name`; KeyError where it has no weight."""
    bias = f"{name}.bias"
    weight = np.ascontiguousarray(source.read(f"{name}.weight"), np.float32)
    return Dense(weight, source.read(bias).astype(np.float32) if bias in source.tensors else None, activation)


def _lowers(files: Mapping[str, bytes]) -> bool:
    """Whether the normalizer of tokenizer.json makes texts lower case."""
    try:
        normalizer = json.loads(files.get("tokenizer.json", b"{}")).get("normalizer")
    except (ValueError, AttributeError):
        return False  # what is wrong with it is said elsewhere
    text = json.dumps(normalizer)
    return '"Lowercase"' in text or '"lowercase": true' in text
