"""Checkpoint to artifact: the whole compilation, one step after the other."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..models import ModelError, RandomCheckpoint, architecture, match_weights, open_source
from ..models.decoder_config import shortened
from ..models.generation import GENERATION_FILE, generation_defaults
from ..models.plugins import code_digest, load_model_file
from ..models.pooling import Pooling, read_pooling
from ..models.problems import Problem, raise_errors
from ..models.registry import Architecture
from ..models.weights import FLOAT_DTYPES, Parameters, TensorSource, WeightMatch, WeightSpec
from ..runtime.errors import HeddleError
from ..runtime.manifest import (
    DECODER,
    EDIT_FUNCTION,
    MASK_FUNCTION,
    PLAN_FUNCTION,
    RANK_FUNCTION,
    SAMPLE_FUNCTION,
    QuantizedSite,
)
from ..runtime.plans import PlanLayout
from ..runtime.plans.cache import STORAGE
from ..schedules.catalog import build_plan, edit_logits, mask_logits, rank_tokens, sample_tokens
from ..schedules.compat import PrimFunc
from ..schedules.layouts.scheme import scheme
from ..schedules.target import TargetProfile
from . import build_cache
from .artifact_writer import ArtifactWriter
from .codegen import code_threads, linker, resolve, timed
from .manifest import describe
from .pooling import write_pooling
from .quant import Choice, Quant, choose, finite_problems, model_sites, names, scheme_problems, stored_quant
from .quant.keep import code_notes, quantized_sites
from .quant.site_map import KEEP
from .variants import WEIGHTS_FILE, build_variants, by_layout, finished
from .weights import WeightWriter

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total); bytes for weights, phases for code."""

SAMPLER = {
    SAMPLE_FUNCTION: sample_tokens,
    RANK_FUNCTION: rank_tokens,
    EDIT_FUNCTION: edit_logits,
    MASK_FUNCTION: mask_logits,
}
"""Kernels of the library by their names in it, beside the plan's."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What changes the artifact of one checkpoint. The build cache's key is made of these.

    `schemes` names the quantization scheme of every site, "none" where its weight has floats; `quantized` says what becomes
    of the codes of sites that the checkpoint has quantized.
    """

    targets: tuple[str, ...]
    dtype: str | None
    schemes: dict[str, str]
    quantized: dict[str, QuantizedSite]
    kv_dtype: str
    max_tokens: int
    max_seqs: int
    context_length: int


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
    files: dict[str, bytes]
    generation: dict[str, Any]
    pooling: Pooling

    @property
    def sites(self) -> dict[str, str]:
        """The parameter with the weight of each site that can be quantized."""
        return model_sites(self.specs, head=self.arch.kind == DECODER)

    @property
    def parameters(self) -> Parameters:
        """The model's parameters as the checkpoint has them."""
        return Parameters(self.specs, self.match.names, self.checkpoint)

    def shorten(self, context_length: int | None) -> None:
        """Bound the model's context. HeddleError where it is not that long."""
        if context_length is None:
            return
        longest = self.config.context_length
        if not 1 <= context_length <= longest:
            raise HeddleError(f"context_length={context_length} is not possible", fix=f"give 1 to {longest}")
        self.config = shortened(self.config, context_length)

    def choose(self, quant: Quant) -> Choice:
        """How each site is quantized."""
        sites = self.sites
        return choose(quant, sites, stored_quant(sites, self.parameters))


def compile_model(
    source: str | Path,
    output: str | Path | None = None,
    *,
    quant: Quant = None,
    target: str | Sequence[str] = "native",
    dtype: str | None = None,
    kv_dtype: str | None = None,
    max_tokens: int = 1024,
    max_seqs: int = 64,
    context_length: int | None = None,
    random_weights: int | None = None,
    model_file: str | Path | None = None,
    progress: Progress | None = None,
    use_cache: bool = True,
) -> Path:
    """Compile a Hugging Face directory into an artifact directory and return its path.

    Without `output` the artifact goes to the build cache, where an equal compilation is found again at once. `quant` is a
    quantization scheme (`w4a8`), or a map from patterns of sites to schemes (docs/quantization.md); other matrices keep their
    codes where the checkpoint has quantized them, and are else stored as in the checkpoint, or all in `dtype`. `max_tokens`
    bounds the rows of a step (longer prompts are served in chunks), `max_seqs` its sequences, `context_length` the length of
    a sequence (None: as the config says). `random_weights` seeds weights of the config's shapes instead of reading any.
    `model_file` is a Python file that registers the model's architecture (docs/tutorial_family.md).
    `target` names target profiles, of which the artifact gets a library each: `native` (this CPU's best), `portable` (all of this
    architecture), or one or several by name.
    Raises ModelError with all problems of the checkpoint, or of quantizing it, HeddleError for bad options.
    """
    seconds: dict[str, float] = {}
    if model_file is not None:
        load_model_file(model_file)
    with timed(seconds, "read"):
        model = read_source(Path(source), dtype=dtype, random_weights=random_weights)
        model.shorten(context_length)
        profiles = resolve(target)
        choice = model.choose(quant)
        options = _options(model, profiles, dtype, choice, kv_dtype, max_tokens, max_seqs)
        raise_errors(f"quantizing {model.path}", _scheme_problems(model, profiles, choice))
    if output is not None:
        return _build(model, profiles, options, Path(output), seconds, progress)
    code = code_digest(model.arch.name)
    key = build_cache.cache_key(
        model.checkpoint.identity(),
        {
            **dataclasses.asdict(options),
            "config": model.raw,
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in model.files.items()},
            "pooling": model.pooling.identity(),
            "code": code,
        },
    )
    return build_cache.find_or_build(
        key,
        lambda destination: _build(model, profiles, options, destination, seconds, progress),
        rebuild=not use_cache or code is None,
    )


def read_source(path: Path, *, dtype: str | None = None, random_weights: int | None = None) -> Source:
    """Read and check config and weights; ModelError lists everything that is wrong with either."""
    source = open_source(path)
    raw = source.config()
    arch = architecture(raw)
    config = arch.config(raw)
    specs = arch.weights(config)
    checkpoint: TensorSource
    if random_weights is None:
        checkpoint = source.checkpoint()
    else:
        stored = dtype or raw.get("dtype") or raw.get("torch_dtype") or "float32"
        checkpoint = RandomCheckpoint(specs, random_weights, str(stored))
    match = match_weights(specs, checkpoint, ignored=arch.ignored, subject=str(path))
    files = source.files()
    pooling = read_pooling(files, source.directory, checkpoint, arch.poolers)
    generation = generation_defaults(files.get(GENERATION_FILE), raw)
    return Source(source.path, raw, arch, config, specs, checkpoint, match, files, generation, pooling)


def _options(
    model: Source,
    profiles: Sequence[TargetProfile],
    dtype: str | None,
    choice: Choice,
    kv_dtype: str | None,
    max_tokens: int,
    max_seqs: int,
) -> Options:
    table = model.checkpoint.tensors[model.match.names["embed.weight"]]
    given = (
        model.raw.get("dtype") or model.raw.get("torch_dtype") if table.quant else None
    )  # the floats behind the codes
    stored = dtype or str(given or table.dtype)
    chosen = kv_dtype or stored
    for name, value, known in (("dtype", stored, FLOAT_DTYPES), ("kv_dtype", chosen, tuple(STORAGE))):
        if value not in known:
            raise HeddleError(f"{name}={value!r} is not supported", fix=f"choose one of: {', '.join(known)}")
    for name, number in (("max_tokens", max_tokens), ("max_seqs", max_seqs)):
        if number < 1:
            raise HeddleError(f"{name}={number} is not possible", fix="give at least 1")
    sites = model.sites
    every, quantized = names(choice.schemes, sites), quantized_sites(choice, stored_quant(sites, model.parameters))
    targets = tuple(profile.name for profile in profiles)
    return Options(targets, dtype, every, quantized, chosen, max_tokens, max_seqs, model.config.context_length)


def quantization_problems(source: str | Path, quant: Quant, target: str | Sequence[str] = "native") -> list[Problem]:
    """What prevents a checkpoint from being quantized like this, its values included, and what becomes of its own codes.

    HeddleError where `quant` is wrong.
    """
    model = read_source(Path(source))
    choice, sites = model.choose(quant), model.sites
    quantized = quantized_sites(choice, stored_quant(sites, model.parameters))
    problems = _scheme_problems(model, resolve(target), choice) if choice.schemes else []
    problems += _value_problems(model, [site for site in choice.schemes if site not in choice.kept])
    return problems + code_notes(names(choice.schemes, sites), quantized)


def _scheme_problems(model: Source, profiles: Sequence[TargetProfile], choice: Choice) -> list[Problem]:
    """What prevents the targets from having these schemes; what several say alike stands once."""
    found = [scheme_problems(choice.schemes, model.sites, model.specs, p, choice.kept) for p in profiles]
    return list(dict.fromkeys(problem for problems in found for problem in problems))


def _value_problems(model: Source, quantized: list[str]) -> list[Problem]:
    """NaN and infinite weights at the sites that are to be quantized."""
    if isinstance(model.checkpoint, RandomCheckpoint):
        return []
    sites = model.sites
    return finite_problems([sites[site] for site in quantized], model.parameters)


def _build(
    model: Source,
    profiles: Sequence[TargetProfile],
    options: Options,
    output: Path,
    seconds: dict[str, float],
    progress: Progress | None,
) -> Path:
    for profile in profiles:
        linker(profile)  # a missing one is said before the work, not after it
    report = progress or (lambda what, done, total: None)
    heads = {"heads": model.config.num_heads, "kv_heads": model.config.num_kv_heads}
    layout = PlanLayout.of(options.max_tokens, options.max_seqs, **heads)
    dtypes = matrix_dtypes(model, options.dtype)
    schemes = {site: name for site, name in options.schemes.items() if name != KEEP}
    with timed(seconds, "check_weights"):
        anew = [site for site in schemes if site not in options.quantized or not options.quantized[site].kept]
        raise_errors(f"quantizing {model.path}", _value_problems(model, anew))
    with ArtifactWriter(output) as writer, tempfile.TemporaryDirectory() as scratch:
        with timed(seconds, "export"):
            mod = model.arch.export(model.config, dtypes=dtypes, kv_dtype=options.kv_dtype, plan_layout=layout)
        with code_threads() as pool:
            variants = build_variants(
                mod,
                profiles,
                lambda profile: _extra_kernels(model, layout, profile),
                Path(scratch),
                pool,
                seconds,
                max_tokens=options.max_tokens,
                schemes=schemes,
                report=report,
            )
            for i, (phase, text) in enumerate(variants[0].lowered.texts):
                writer.write_text(f"ir/{i:02d}-{phase}.py", text)
            records = [dataclasses.asdict(r) for r in variants[0].lowered.log.records]
            writer.write_text("ir/passes.json", json.dumps(records, indent=0))
            writer.write_text("config.json", json.dumps(model.raw, indent=2) + "\n")
            for name, data in model.files.items():
                writer.write_bytes(name, data)
            write_pooling(model.pooling, writer)
            specs = {}
            for group in by_layout(variants):
                with timed(seconds, "weights"):
                    weights = WeightWriter(group[0].lowered.weights, model.parameters, dtypes, _kept(model, options))
                    file = writer.write_weights(
                        WEIGHTS_FILE, weights.specs, weights.produce, lambda d, t: report("weights", d, t)
                    )
                specs[file] = weights.specs
                for variant in group:
                    variant.weights = file
            for variant, library in finished(variants, seconds, report):
                writer.copy(variant.file, library)
        writer.finish(describe(model, options, layout, variants, specs, seconds))
    return output


def _extra_kernels(model: Source, layout: PlanLayout, profile: TargetProfile) -> dict[str, PrimFunc]:
    """Kernels that the library has beside the model's functions: the plan builder and the sampler."""
    sampler = SAMPLER if model.arch.kind == DECODER else {}
    made = {name: make(vocab=model.config.vocab_size, target=profile) for name, make in sampler.items()}
    return made | {PLAN_FUNCTION: build_plan(**dataclasses.asdict(layout), target=profile)}


def _kept(model: Source, options: Options) -> set[tuple[str, str]]:
    """Parameters whose codes are kept, with the names of their weight formats."""
    sites = model.sites
    kept = [site for site, found in options.quantized.items() if found.kept]
    return {(sites[site], scheme(options.schemes[site]).weight.name) for site in kept}


def matrix_dtypes(model: Source, dtype: str | None) -> dict[str, str]:
    """The stored type of every matrix: the checkpoint's, or `dtype` for all."""
    tensors, names = model.checkpoint.tensors, model.match.names
    return {p: dtype or tensors[names[p]].dtype for p, spec in model.specs.items() if spec.kind != "vector"}


__all__ = [
    "ModelError",
    "Options",
    "Source",
    "compile_model",
    "matrix_dtypes",
    "quantization_problems",
    "read_source",
]
