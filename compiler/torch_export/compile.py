"""A torch module to an artifact: export, linears to Heddle's kernels, the rest through TVM, and a trial against torch."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np

from ... import __version__
from ...ir_passes.module_pipeline import module_phases
from ...ir_passes.pipeline import Lowered, run
from ...ir_passes.recognize_linears import RecognizeLinears, linears
from ...models.problems import raise_errors
from ...models.weights import FLOAT_DTYPES
from ...runtime.artifact import ModuleArtifact, choose_target
from ...runtime.errors import HeddleError
from ...runtime.manifest import LIBRARY_FILE, MODULE, TensorInfo, WeightsInfo
from ...runtime.module import Module
from ...runtime.module_manifest import FORMAT_VERSION, FUNCTION, ModuleManifest
from ...runtime.tvm import ffi_version, tvm_version
from ...schedules.target import TargetProfile
from ..artifact_writer import ArtifactWriter, TensorSpec
from ..codegen import build_library, code_threads, resolve, timed
from ..driver import Progress
from ..manifest import target_info
from ..quant import Quant, choose_schemes, finite_problems, names, scheme_problems
from ..weights import WeightWriter
from .files import WEIGHTS
from .program import TorchProgram, export_program

TOLERANCE = 1e-3
"""max|a - b| / max|b| of an output against torch's from which on a compilation fails: float32 rounding is far below."""


def compile_torch(
    source: str | Path,
    output: str | Path,
    *,
    quant: Quant = None,
    target: str = "native",
    dtype: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Compile a torch module into an artifact directory for `heddle.load_module`, and return its path.

    `source` is `file.py:function`, where the function returns what torch.export.export takes (module, example arguments,
    and perhaps dynamic_shapes) or an ExportedProgram, or a file saved by torch.export.save. A process of its own imports
    torch and runs that file. `quant` is a quantization scheme for all linears or a map from patterns of their names, as in
    `compile_model`; `dtype` stores the other linears' weights in that type. Everything is computed in float32.

    The module is tried on the example arguments: it must give what torch gives, unless its weights are rounded. Raises ModelError
    with all problems of the module, HeddleError for bad options or a module that computes something else.
    """
    if dtype is not None and dtype not in FLOAT_DTYPES:
        raise HeddleError(f"dtype={dtype!r} is not supported", fix=f"choose one of: {', '.join(FLOAT_DTYPES)}")
    profile = _profile(target)
    report, seconds = progress or (lambda what, done, total: None), dict[str, float]()
    with ArtifactWriter(output) as writer, tempfile.TemporaryDirectory() as scratch:
        report("exporting", 0, 4)
        with timed(seconds, "export"):
            program = export_program(source, Path(scratch))
        report("lowering", 1, 4)
        sites = linears(program.mod)
        parameters = program.parameters(set(sites.values()))
        schemes = choose_schemes(quant, sites)
        problems = scheme_problems(schemes, sites, parameters.specs, profile)
        problems += finite_problems([sites[site] for site in schemes], parameters)
        raise_errors(f"quantizing {source}", problems)
        chosen = {site: scheme.name for site, scheme in schemes.items()}
        lowered = run(program.mod, profile, [RecognizeLinears(dtype or ""), *module_phases(chosen)])
        seconds.update(lowered.seconds)
        report("generating code", 2, 4)
        with code_threads() as pool:
            library = build_library(lowered, {}, profile, Path(scratch) / LIBRARY_FILE, pool).result()
        seconds.update(codegen=library.codegen, link=library.link)
        report("weights", 3, 4)
        for i, (phase, text) in enumerate(lowered.texts):
            writer.write_text(f"ir/{i:02d}-{phase}.py", text)
        writer.write_text("ir/passes.json", json.dumps([dataclasses.asdict(r) for r in lowered.log.records], indent=0))
        with timed(seconds, "weights"):
            dtypes = {name: info.dtype for name, info in program.weights.tensors.items()}
            weights = WeightWriter(lowered.weights, parameters, dtypes | _stored(lowered, dtype, sites))
            writer.write_weights(WEIGHTS, weights.specs, weights.produce)
        writer.copy(LIBRARY_FILE, library.path)
        manifest = describe(source, program, profile, lowered, weights.specs, names(schemes, sites), seconds)
        with timed(manifest.compile_seconds, "trial"):
            difference = trial(Module(ModuleArtifact(writer.folder, manifest)), program)
        exact = not schemes and dtype in (None, "float32")
        if not difference <= (TOLERANCE if exact else sys.float_info.max):
            raise HeddleError(
                f"{source} computes something else than torch: the outputs differ by {difference:.2g} of the largest",
                "an operator is translated wrongly, or the module draws random numbers",
                "report it with the module; replacing the operator in the module may help",
            )
        report("trial", 4, 4)
        writer.finish(dataclasses.replace(manifest, difference=difference))
    return Path(output)


def _profile(target: str) -> TargetProfile:
    """The one profile of that name, which this machine must be able to run: the module is tried here."""
    profiles = resolve(target)
    if len(profiles) > 1:
        raise HeddleError(
            f"target={target!r} stands for {', '.join(profile.name for profile in profiles)}",
            "the artifact of a torch module has one library",
            "name one of them",
        )
    choose_target([target_info(profiles[0], LIBRARY_FILE, WEIGHTS)], profiles[0].name)
    return profiles[0]


def _stored(lowered: Lowered, dtype: str | None, sites: dict[str, str]) -> dict[str, str]:
    """The weights of linears that are stored in `dtype`: those that no other operator reads as they are."""
    plain = {name for weights in lowered.params.values() for name in weights}
    return {param: dtype for param in sites.values() if param not in plain} if dtype else {}


def trial(module: Module, program: TorchProgram) -> float:
    """max|a - b| / max|b| of the compiled module's outputs against torch's on the example arguments, the worst of all."""
    results = module(*(program.example("input", i) for i in range(len(program.inputs))))
    outputs = list(results.values()) if isinstance(results, dict) else results
    worst = 0.0
    for i, found in enumerate(outputs if isinstance(outputs, list | tuple) else [outputs]):
        expected = program.example("output", i)
        if found.shape != expected.shape or found.dtype != expected.dtype:
            return math.inf
        a, b = found.astype(np.float64), expected.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))  # infinities of one sign too
        if not same.all():
            difference = np.abs(a - b)[~same].max() / (np.abs(b).max() or 1.0)
            worst = max(worst, float(difference) if math.isfinite(difference) else math.inf)
    return worst


def describe(
    source: str | Path,
    program: TorchProgram,
    profile: TargetProfile,
    lowered: Lowered,
    weights: list[TensorSpec],
    schemes: dict[str, str],
    seconds: dict[str, float],
) -> ModuleManifest:
    """The manifest; the artifact writer adds the files, the trial the difference."""
    tensors = {name: TensorInfo(dtype, shape) for name, dtype, shape in weights}
    return ModuleManifest(
        format_version=FORMAT_VERSION,
        kind=MODULE,
        heddle_version=__version__,
        tvm_version=tvm_version(),
        ffi_version=ffi_version(),
        target=target_info(profile, LIBRARY_FILE, WEIGHTS),
        source=Path(source).name,
        inputs=program.inputs,
        outputs=program.outputs,
        returns=program.returns,
        dims=program.dims,
        schemes=schemes,
        params=tuple(lowered.params[FUNCTION]),
        weights=WeightsInfo(WEIGHTS, tensors),
        difference=0.0,
        files={},
        compile_seconds={name: round(value, 4) for name, value in seconds.items()},
    )
