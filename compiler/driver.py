"""Checkpoint to artifact: the whole compilation, one step after the other."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..ir_passes.pipeline import Lowered, lower
from ..ir_passes.straightline import name_of
from ..models import ModelError, RandomCheckpoint, architecture, load_config, match_weights, open_checkpoint
from ..models.problems import Problem, raise_errors
from ..models.registry import Architecture
from ..models.weights import FLOAT_DTYPES, TensorSource, WeightMatch, WeightSpec
from ..runtime.artifact import sha256
from ..runtime.errors import HeddleError
from ..runtime.features import physical_cores
from ..runtime.manifest import (
    EDIT_FUNCTION,
    LIBRARY_FILE,
    MASK_FUNCTION,
    PLAN_FUNCTION,
    RANK_FUNCTION,
    SAMPLE_FUNCTION,
)
from ..runtime.plans import PlanLayout
from ..runtime.plans.cache import STORAGE
from ..schedules.catalog import build_plan, edit_logits, mask_logits, rank_tokens, sample_tokens
from ..schedules.compat import PrimFunc, ir, relax, tirx, tvm
from ..schedules.layouts.scheme import Scheme
from ..schedules.target import TargetProfile, resolve_target
from . import build_cache
from .artifact_writer import ArtifactWriter
from .manifest import describe
from .quant import Quant, choose_schemes, finite_problems, model_sites, names, scheme_problems
from .quant.site_map import KEEP
from .weights import WeightWriter

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total); bytes for weights, phases for code."""

CODEGEN_THREADS = 4

COPIED_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What changes the artifact of one checkpoint. The build cache's key is made of these.

    `schemes` names the quantization scheme of every site, "none" where its weight stays as it is stored.
    """

    target: str
    dtype: str | None
    schemes: dict[str, str]
    kv_dtype: str
    max_tokens: int
    max_seqs: int


@dataclasses.dataclass
class Source:
    """A checkpoint that has passed every check, with its architecture."""

    path: Path
    raw: dict[str, Any]
    arch: Architecture
    config: Any
    specs: dict[str, WeightSpec]
    checkpoint: TensorSource
    match: WeightMatch


def compile_model(
    source: str | Path,
    output: str | Path | None = None,
    *,
    quant: Quant = None,
    target: str = "native",
    dtype: str | None = None,
    kv_dtype: str | None = None,
    max_tokens: int = 1024,
    max_seqs: int = 64,
    random_weights: int | None = None,
    progress: Progress | None = None,
    use_cache: bool = True,
) -> Path:
    """Compile a Hugging Face directory into an artifact directory and return its path.

    Without `output` the artifact goes to the build cache, where an equal compilation is found again at once. `quant` is a
    quantization scheme (`w4a8`), or a map from patterns of sites to schemes (docs/quantization.md); other matrices are
    stored as in the checkpoint, or all in `dtype`. `max_tokens` bounds the rows of a step (longer prompts are served in
    chunks), `max_seqs` its sequences. `random_weights` seeds weights of the config's shapes instead of reading any.
    Raises ModelError with all problems of the checkpoint, or of quantizing it, HeddleError for bad options.
    """
    seconds: dict[str, float] = {}
    with _timed(seconds, "read"):
        model = read_source(Path(source), dtype=dtype, random_weights=random_weights)
        profile = _resolve(target)
        schemes = choose_schemes(quant, model_sites(model.specs))
        options = _options(model, profile, dtype, schemes, kv_dtype, max_tokens, max_seqs)
        raise_errors(f"quantizing {model.path}", _scheme_problems(model, profile, schemes))
    if output is not None:
        return _build(model, profile, options, Path(output), seconds, progress)
    key = build_cache.cache_key(
        model.checkpoint.identity(),
        {
            **dataclasses.asdict(options),
            "config": model.raw,
            "files": {name: sha256(model.path / name) for name in COPIED_FILES if (model.path / name).is_file()},
        },
    )
    return build_cache.find_or_build(
        key,
        lambda destination: _build(model, profile, options, destination, seconds, progress),
        rebuild=not use_cache,
    )


def read_source(path: Path, *, dtype: str | None = None, random_weights: int | None = None) -> Source:
    """Read and check config and weights; ModelError lists everything that is wrong with either."""
    raw = load_config(path)
    arch = architecture(raw)
    config = arch.config(raw)
    specs = arch.weights(config)
    checkpoint: TensorSource
    if random_weights is None:
        checkpoint = open_checkpoint(path)
    else:
        stored = dtype or raw.get("dtype") or raw.get("torch_dtype") or "float32"
        checkpoint = RandomCheckpoint(specs, random_weights, str(stored))
    match = match_weights(specs, checkpoint, ignored=arch.ignored, subject=str(path))
    return Source(path if path.is_dir() else path.parent, raw, arch, config, specs, checkpoint, match)


def _resolve(target: str) -> TargetProfile:
    try:
        return resolve_target(target)
    except ValueError as error:
        raise HeddleError(str(error)) from error


def _options(
    model: Source,
    profile: TargetProfile,
    dtype: str | None,
    schemes: dict[str, Scheme],
    kv_dtype: str | None,
    max_tokens: int,
    max_seqs: int,
) -> Options:
    stored = dtype or model.checkpoint.tensors[model.match.names["embed.weight"]].dtype
    chosen = kv_dtype or stored
    for name, value, known in (("dtype", stored, FLOAT_DTYPES), ("kv_dtype", chosen, tuple(STORAGE))):
        if value not in known:
            raise HeddleError(f"{name}={value!r} is not supported", fix=f"choose one of: {', '.join(known)}")
    for name, number in (("max_tokens", max_tokens), ("max_seqs", max_seqs)):
        if number < 1:
            raise HeddleError(f"{name}={number} is not possible", fix="give at least 1")
    every = names(schemes, model_sites(model.specs))
    return Options(profile.name, dtype, every, chosen, max_tokens, max_seqs)


def quantization_problems(source: str | Path, quant: Quant, target: str = "native") -> list[Problem]:
    """What prevents a checkpoint from being quantized like this, its values included. HeddleError where `quant` is wrong."""
    model = read_source(Path(source))
    schemes = choose_schemes(quant, model_sites(model.specs))
    return _scheme_problems(model, _resolve(target), schemes) + _value_problems(model, list(schemes))


def _scheme_problems(model: Source, profile: TargetProfile, schemes: dict[str, Scheme]) -> list[Problem]:
    return scheme_problems(schemes, model_sites(model.specs), model.specs, profile)


def _value_problems(model: Source, quantized: list[str]) -> list[Problem]:
    """NaN and infinite weights at the sites that are to be quantized."""
    if isinstance(model.checkpoint, RandomCheckpoint):
        return []
    sites = model_sites(model.specs)
    return finite_problems([sites[site] for site in quantized], model.match.names, model.checkpoint)


def _build(
    model: Source,
    profile: TargetProfile,
    options: Options,
    output: Path,
    seconds: dict[str, float],
    progress: Progress | None,
) -> Path:
    report = progress or (lambda what, done, total: None)
    heads = {"heads": model.config.num_heads, "kv_heads": model.config.num_kv_heads}
    layout = PlanLayout.of(options.max_tokens, options.max_seqs, **heads)
    dtypes = matrix_dtypes(model, options.dtype)
    schemes = {site: name for site, name in options.schemes.items() if name != KEEP}
    with _timed(seconds, "check_weights"):
        raise_errors(f"quantizing {model.path}", _value_problems(model, list(schemes)))
    with ArtifactWriter(output) as writer, tempfile.TemporaryDirectory() as scratch:
        with _timed(seconds, "export"):
            mod = model.arch.export(model.config, dtypes=dtypes, kv_dtype=options.kv_dtype, plan_layout=layout)
        report("lowering", 0, 3)
        lowered = lower(mod, profile, max_tokens=options.max_tokens, schemes=schemes)
        seconds.update(lowered.seconds)
        report("generating code", 1, 3)
        library = Path(scratch) / LIBRARY_FILE
        plan = build_plan(**dataclasses.asdict(layout), target=profile)
        sampler = {SAMPLE_FUNCTION: sample_tokens, RANK_FUNCTION: rank_tokens}
        sampler |= {EDIT_FUNCTION: edit_logits, MASK_FUNCTION: mask_logits}
        extra = {n: make(vocab=model.config.vocab_size, target=profile) for n, make in sampler.items()}
        executable = generate_code(lowered, extra | {PLAN_FUNCTION: plan}, profile, seconds)
        report("generating code", 3, 3)
        with ThreadPoolExecutor(1) as linker:  # one thread for seconds, while the others compute weights
            linked = linker.submit(_link, executable, library, seconds)
            for i, (phase, text) in enumerate(lowered.texts):
                writer.write_text(f"ir/{i:02d}-{phase}.py", text)
            records = [dataclasses.asdict(r) for r in lowered.log.records]
            writer.write_text("ir/passes.json", json.dumps(records, indent=0))
            for name in COPIED_FILES:
                if (model.path / name).is_file():
                    writer.copy(name, model.path / name)
            with _timed(seconds, "weights"):
                weights = WeightWriter(lowered.weights, model.checkpoint, model.match.names, dtypes)
                writer.write_weights(
                    "weights.safetensors", weights.specs, weights.produce, lambda d, t: report("weights", d, t)
                )
            linked.result()
        writer.copy(LIBRARY_FILE, library)
        writer.finish(describe(model, profile, options, layout, lowered, weights.specs, seconds))
    return output


def matrix_dtypes(model: Source, dtype: str | None) -> dict[str, str]:
    """The stored type of every matrix: the checkpoint's, or `dtype` for all."""
    tensors, names = model.checkpoint.tensors, model.match.names
    return {p: dtype or tensors[names[p]].dtype for p, spec in model.specs.items() if spec.kind != "vector"}


def generate_code(
    lowered: Lowered, extra: dict[str, PrimFunc], profile: TargetProfile, seconds: dict[str, float]
) -> relax.VMExecutable:
    """Machine code for a lowered module and `extra` functions beside it. Kernels are compiled by several threads."""
    with _timed(seconds, "codegen"):
        target = profile.tvm_target()
        functions = {name_of(gv): func for gv, func in lowered.mod.functions.items()}
        kernels = {name: func for name, func in functions.items() if isinstance(func, PrimFunc)} | extra

        def build(names: list[str]) -> object:
            return tirx.build(ir.IRModule({n: kernels[n].with_attr("global_symbol", n) for n in names}), target=target)

        workers = min(CODEGEN_THREADS, len(physical_cores()))
        with ThreadPoolExecutor(workers) as pool:
            libraries = list(pool.map(build, [list(kernels)[i::workers] for i in range(workers)]))
        rest = ir.IRModule(
            {name: func for name, func in functions.items() if name not in kernels}, attrs=lowered.mod.attrs
        )
        nothing = tvm.transform.Sequential([])  # the module is lowered; the default pipeline would do it again, worse
        return relax.build(rest.with_attr("external_mods", libraries), target=target, relax_pipeline=nothing)


def _link(executable: relax.VMExecutable, library: Path, seconds: dict[str, float]) -> None:
    """A shared library of what `generate_code` made."""
    with _timed(seconds, "link"):
        executable.export_library(str(library))


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


__all__ = [
    "ModelError",
    "Options",
    "Source",
    "compile_model",
    "generate_code",
    "matrix_dtypes",
    "quantization_problems",
    "read_source",
]
