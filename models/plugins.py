"""Families that are not part of Heddle: a model file given by its path, and packages installed with an entry point.

Both are modules that register architectures when they are imported, as those of `families/` do. An entry point of the group
`heddle.models` names such a module; it is imported when a config names an architecture that is not known otherwise.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from . import families as _families  # noqa: F401  (registers Heddle's own)
from .problems import ModelError, error
from .registry import ARCHITECTURES

GROUP = "heddle.models"
FIX = "it must call heddle.models.decoder.register_decoder(...) or heddle.models.registry.register(...) when imported"
TRACEBACK_LINES = 8

# Architecture -> digest of the code that registered it.
_digests: dict[str, str | None] = dict.fromkeys(ARCHITECTURES, "")
_files: dict[Path, str] = {}  # model file -> its digest when it was imported
_installed: set[str] = set()  # values of entry points that have been imported


def code_digest(architecture: str) -> str | None:
    """What changes when the code of an architecture does: "" for Heddle's own, None where it is not known.

    It is of the model file, or of all Python files of the package that an entry point names; not of what these import. Nothing is
    known of architectures that somebody else's code registers.
    """
    return _digests.get(architecture)


def load_model_file(path: str | Path) -> None:
    """Import a model file, so that its architectures are known; again where it was edited since the last time.

    Raises ModelError where it cannot be imported, registers nothing, or registers what is there already.
    """
    path = Path(path).resolve()
    if not path.is_file() or path.suffix != ".py":
        raise ModelError(str(path), [error("not a model file", "", "give the path of a Python file")])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if _files.get(path) == digest:
        return
    for name in [name for name, code in _digests.items() if path in _files and code == _files[path]]:
        del ARCHITECTURES[name], _digests[name]
    _files.pop(path, None)
    name = f"heddle_model_file_{digest[:16]}"

    def load() -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    _import(str(path), load, lambda _: digest, set(ARCHITECTURES))
    _files[path] = digest


def load_installed() -> None:
    """Import what entry points name and what is not imported yet. ModelError for the first that fails."""
    for point in entry_points(group=GROUP):
        if point.value not in _installed:
            subject = f"the entry point {point.name} = {point.value} of the group {GROUP}"
            load = functools.partial(importlib.import_module, point.module)
            # What somebody imported already has registered its architectures then.
            before = set(_digests) if point.module in sys.modules else set(ARCHITECTURES)
            _import(subject, load, _package_digest, before)
            _installed.add(point.value)


def _import(
    subject: str, load: Callable[[], ModuleType], digest: Callable[[ModuleType], str], before: set[str]
) -> None:
    """Import a module and note what it registers beside `before`; ModelError for whatever it raises, and for nothing new."""
    registered = dict(ARCHITECTURES)
    try:
        module = load()
        if not ARCHITECTURES.keys() - before:
            raise ModelError(subject, [error("it registers no architecture", "", FIX)])
    except BaseException as exception:
        ARCHITECTURES.clear()
        ARCHITECTURES.update(registered)
        if isinstance(exception, ModelError) or not isinstance(exception, Exception):
            raise
        lines = "".join(traceback.format_exception(exception)).strip().splitlines()
        why = "\n".join(lines[-TRACEBACK_LINES:])
        raise ModelError(subject, [error("it cannot be imported", why, "correct it")]) from exception
    code = digest(module)
    _digests.update({name: code for name in ARCHITECTURES if name not in before})


def _package_digest(module: ModuleType) -> str:
    """Digest of all Python files of the package that a module is in, or of the module's own file."""
    root = sys.modules[module.__name__.partition(".")[0]]
    folders = [Path(folder) for folder in getattr(root, "__path__", ())]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    digest = hashlib.sha256()
    for file in files or [Path(str(module.__file__))]:
        digest.update(f"{file.name} ".encode() + file.read_bytes())
    return digest.hexdigest()
