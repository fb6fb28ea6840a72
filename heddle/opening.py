"""From a path and options to what an engine is made of: the artifact, its identity, the sizes of its pools."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .arguments import byte_count, memory_share
from .runtime.artifact import Artifact, choose_target, is_artifact, open_artifact
from .runtime.errors import ArtifactError, RequestError
from .runtime.kv_memory import share_bytes
from .runtime.manifest import ENCODER
from .runtime.request import pages_for
from .runtime.tvm import can_compile

Quant = str | Mapping[str, str] | None
_COMPILE_AGAIN = "leave the option out, or compile the model again with it"


def find_artifact(
    path: Path,
    fixed: dict[str, Any],
    random_weights: int | None = None,
    verify: str = "quick",
    progress: Callable[[str, int, int], None] | None = None,
    target: str = "native",
) -> Artifact:
    """The artifact at `path`, or the one compiled from the checkpoint there, to run its target called so.

    `fixed` are options fixed by compiling (None: not asked for); RequestError where an artifact was compiled with others.
    """
    wanted = {name: value for name, value in fixed.items() if value is not None}
    if not is_artifact(path):
        _require_compiler(path)
        from .compiler.codegen import resolve  # the compiler is needed, and installed, only here
        from .compiler.driver import compile_model
        from .compiler.manifest import target_info

        choose_target([target_info(profile, "", "") for profile in resolve(target)], target)  # before the work
        compiled = compile_model(path, target=target, random_weights=random_weights, progress=progress, **wanted)
        return open_artifact(compiled, verify, target)
    artifact = open_artifact(path, verify, target)
    model, plan = artifact.manifest.model, artifact.manifest.plan
    found: dict[str, Any] = {"dtype": model.weight_dtype, "kv_dtype": model.kv_dtype}
    found |= {"max_tokens": plan.max_tokens, "max_seqs": plan.max_seqs}
    if "quant" in wanted:
        _check_schemes(artifact, wanted.pop("quant"))
    if random_weights is not None:
        wanted["random_weights"] = random_weights
    found |= dict.fromkeys(("random_weights", "model_file"), "not an option of artifacts")
    for name, value in wanted.items():
        if value != found[name]:
            raise RequestError(
                f"{path} was compiled with {name}={found[name]}, asked for is {value!r}",
                "this is fixed when a model is compiled",
                _COMPILE_AGAIN,
            )
    return artifact


def _require_compiler(path: Path) -> None:
    """ArtifactError where something else than an artifact is given, and TVM's compiler has been left out of the installation."""
    if not can_compile():
        raise ArtifactError(
            f"{path} is not an artifact" if path.exists() else f"{path} does not exist",
            "this installation has no compiler, so it runs artifacts alone",
            "compile elsewhere (heddle compile MODEL -o model.heddle) and give that, or install apache-tvm whole",
        )


def _check_schemes(artifact: Artifact, quant: str | Mapping[str, str]) -> None:
    """RequestError where an artifact was quantized in another way than `quant` says."""
    from .compiler.quant import choose, names
    from .models.quant_tensor import QuantInfo

    manifest = artifact.manifest
    found, quantized = manifest.model.schemes, manifest.model.quantized
    stored = {site: QuantInfo(info.label, info.holds, info.suggests) for site, info in quantized.items()}
    tables = {f.name: set(f.params) for f in manifest.functions}
    shared = {"lm_head": "embed"} if tables["embed"] & tables.get("head", set()) else {}
    choice = choose(quant, {site: shared.get(site, site) for site in found}, stored)
    wanted = names(choice.schemes, found)
    for site, scheme in found.items():
        kept = site in quantized and quantized[site].kept
        if wanted[site] != scheme or kept != (site in choice.kept):
            was, asked = (
                f"{name!r}" + " with the codes of the checkpoint" * keeps
                for name, keeps in ((scheme, kept), (wanted[site], site in choice.kept))
            )
            raise RequestError(
                f"{artifact.path} was compiled with the scheme {was} at {site}, asked for is {asked}",
                "this is fixed when a model is compiled",
                "leave quant out, or compile the model again with it",
            )


def identity(artifact: Artifact) -> bytes:
    """What decides the contents of a page besides tokens: weights, code and the type of the cache, by their hashes."""
    manifest, target = artifact.manifest, artifact.target
    hashes = [manifest.files[name].sha256 for name in (target.weights, target.library)]
    return hashlib.sha256(" ".join([*hashes, manifest.model.kv_dtype]).encode()).digest()


def pool_bytes(artifact: Artifact, kv_memory: int | str | None, context_length: int | None) -> int | None:
    """Bytes of the KV pool, None for the runner's default; that of a decoder is two full contexts, smaller with a shorter one."""
    if kv_memory is not None:
        share = memory_share(kv_memory)
        return byte_count("kv_memory", kv_memory, "'50%'") if share is None else share_bytes(artifact, share)
    encoder = artifact.manifest.model.kind == ENCODER
    if context_length is None or context_length < 1 or encoder:  # the engine refuses the second
        return None
    group = artifact.manifest.caches[0]
    tokens = min(context_length, artifact.manifest.model.context_length)
    return 2 * pages_for(tokens, group.page_tokens) * group.record_bytes


def swap_bytes(preemption: str, swap_memory: int | str | None) -> int:
    """Bytes of host memory for swapped pages; RequestError where that and the way of preemption contradict each other."""
    if swap_memory is None:
        if preemption == "swap":
            raise RequestError("preemption='swap' needs host memory", fix="give swap_memory, such as '1GiB'")
        return 0
    if preemption != "swap":
        raise RequestError(
            f"swap_memory is {swap_memory!r} and preemption {preemption!r}: nothing is swapped",
            fix="give preemption='swap' too, or no swap_memory",
        )
    return byte_count("swap_memory", swap_memory)
