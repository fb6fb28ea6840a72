"""The README of a package: what is in it, what it needs, how to run it, whose it is."""

from __future__ import annotations

from ...runtime.manifest import Manifest
from .runner import Runner

_TEXT = """# {architecture}, packaged by Heddle {version}

    ./run.sh "A prompt" --max-tokens 100
    ./run.sh --help

Linux on {arch}{needs}. No Python, no network, no other files: the directory can be moved and copied as a whole.

| part | what |
|---|---|
| `run.sh` | `bin/heddle-run model`, from any folder |
| `bin/heddle-run` | the program; `bin/heddle-run model --info` shows what it would run |
{libraries}
| `model/` | the artifact: compiled code, weights, tokenizer; `model/manifest.json` lists all files with their hashes |
| `licenses/` | the licenses of the program and its libraries |

The best of these targets that the CPU can run is taken; `--target NAME` forces one:

| target | needs of the CPU |
|---|---|
{targets}

## Licenses

The program is Heddle's (Apache License 2.0), linked with PCRE2 (BSD), utf8proc (MIT) and Nettle (LGPL 3 or later). `lib/` has
Apache TVM and its FFI (Apache License 2.0, and those of their own parts) and simdjson (Apache License 2.0). The texts are in
`licenses/`. The model's license is that of the checkpoint that it was compiled from.
"""

_LIBRARIES = {
    "libtvm_ffi": "TVM's calling convention and containers",
    "libtvm_runtime": "TVM's virtual machine and pool of threads",
    "libsimdjson": "a JSON parser",
    "libheddle_cli": "what the program does",
    "libheddle": "the native runtime as a library, behind `heddle.h`",
}


def readme(manifest: Manifest, runner: Runner, version: str) -> str:
    """The text for a package with `manifest`'s targets and `runner`."""
    names = {"GLIBC": "glibc", "GLIBCXX": "libstdc++ with GLIBCXX_"}
    versions = [f"{names[name]}{'' if name == 'GLIBCXX' else ' '}{least}" for name, least in runner.needs.items()]
    libraries = {
        file.name: _LIBRARIES.get(file.name.partition(".")[0], "needed by the program") for file in runner.libraries
    }
    return _TEXT.format(
        architecture=manifest.model.architecture,
        version=version,
        arch=runner.arch,
        needs=f" with {' and '.join(versions)} or later" if versions else "",
        libraries="\n".join(f"| `lib/{name}` | {what} |" for name, what in libraries.items()),
        targets="\n".join(
            f"| {target.name} | {' '.join(target.features) or 'nothing'} |" for target in manifest.targets
        ),
    )
