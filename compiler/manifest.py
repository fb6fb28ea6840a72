"""What a finished compilation says about itself: the manifest, all but its list of files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import __version__
from ..ir_passes.pipeline import Lowered
from ..runtime.manifest import (
    ENCODER,
    FORMAT_VERSION,
    ITEM_BYTES,
    CacheGroup,
    FunctionInfo,
    InstanceInfo,
    Manifest,
    MemoryInfo,
    ModelInfo,
    PlanInfo,
    TargetInfo,
    TensorInfo,
    WeightsInfo,
)
from ..runtime.plans import PAGE, PlanLayout
from ..runtime.plans.cache import cache_record
from ..runtime.tvm import ffi_version, tvm_version
from ..schedules.target import TargetProfile
from .pooling import pooling_info
from .variants import Variant

if TYPE_CHECKING:
    from .driver import Options, Source

WeightSpecs = list[tuple[str, str, tuple[int, ...]]]


def functions(model: Source) -> tuple[str, ...]:
    """Names of the functions that a model exports."""
    return ("embed", "body") if model.arch.kind == ENCODER else ("embed", "body", "head")


def describe(
    model: Source,
    options: Options,
    layout: PlanLayout,
    variants: Sequence[Variant],
    weights: dict[str, WeightSpecs],
    seconds: dict[str, float],
) -> Manifest:
    """The manifest of one compilation, with `weights` by file; the artifact writer adds the files."""
    cache = cache_group(model, options.kv_dtype)
    logits = 0 if model.arch.kind == ENCODER else model.config.vocab_size
    sizes = [sum(math.prod(shape) * ITEM_BYTES[dtype] for _, dtype, shape in specs) for specs in weights.values()]
    workspace = max(size for variant in variants for size in variant.lowered.workspace.values())
    return Manifest(
        format_version=FORMAT_VERSION,
        heddle_version=__version__,
        tvm_version=tvm_version(),
        ffi_version=ffi_version(),
        targets=tuple(target_info(v.profile, v.file, v.weights) for v in variants),
        model=model_info(model, options),
        pooling=pooling_info(model.pooling),
        generation=model.generation,
        functions=tuple(common_function(name, variants, options.max_tokens) for name in functions(model)),
        weights=tuple(
            WeightsInfo(file, {name: TensorInfo(dtype, shape) for name, dtype, shape in specs})
            for file, specs in weights.items()
        ),
        caches=(cache,),
        plan=PlanInfo.of(layout, plan_window(model)),
        memory=memory_info(max(sizes), workspace, cache, logits),
        files={},
        compile_seconds={name: round(value, 4) for name, value in seconds.items()},
    )


def model_info(model: Source, options: Options) -> ModelInfo:
    """The model's shape, as the runtime and `inspect` want it."""
    config = model.config
    stored = options.dtype or model.checkpoint.tensors[model.match.names["embed.weight"]].dtype
    return ModelInfo(
        architecture=model.arch.name,
        kind=model.arch.kind,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        context_length=config.context_length,
        weight_dtype=stored,
        schemes=options.schemes,
        quantized=options.quantized,
        kv_dtype=options.kv_dtype,
        config=model.raw,
    )


def cache_group(model: Source, kv_dtype: str) -> CacheGroup:
    """The one paged group: per page, every layer's and kv head's K, then V. The layers of an encoder use one place in turn."""
    config = model.config
    layers = 1 if model.arch.kind == ENCODER else config.num_layers
    size = cache_record(kv_dtype, config.head_dim, config.head_dim).size
    shape = (layers, config.num_kv_heads, size)
    dtype = "uint8" if kv_dtype == "int8" else kv_dtype  # codes and scales share a record: bytes
    record_bytes = math.prod(shape) * ITEM_BYTES[dtype]
    return CacheGroup("kv", "paged", layers, PAGE, dtype, shape, record_bytes)


def plan_window(model: Source) -> int:
    """The most that any layer looks back; 0 if one looks back to the first token, as encoders all do."""
    if model.arch.kind == ENCODER:
        return 0
    return 0 if 0 in model.config.windows else max(model.config.windows)


def target_info(profile: TargetProfile, library: str, weights: str) -> TargetInfo:
    """A target with its files."""
    return TargetInfo(profile.name, profile.arch, tuple(sorted(profile.features)), profile.tvm_spec(), library, weights)


def common_function(name: str, variants: Sequence[Variant], max_tokens: int) -> FunctionInfo:
    """A function that all variants have alike."""
    found = {function_info(name, variant.lowered, max_tokens) for variant in variants}
    if len(found) != 1:
        raise RuntimeError(f"the targets disagree about the function {name}: a pass or a kernel has a bug")
    return found.pop()


def function_info(name: str, lowered: Lowered, max_tokens: int) -> FunctionInfo:
    """A function with its instances by ascending row count; all instances take the same weights."""
    instances = []
    for symbol in lowered.params:
        function, _, rows = symbol.rpartition("_")
        if function == name:
            instances.append(InstanceInfo(symbol, max_tokens if rows == "n" else int(rows)))
    instances.sort(key=lambda instance: instance.max_rows)
    orders = {tuple(lowered.params[instance.symbol]) for instance in instances}
    if len(orders) != 1:
        raise RuntimeError(f"the instances of {name} take their weights in different orders: a pass has a bug")
    return FunctionInfo(name, orders.pop(), tuple(instances))


def memory_info(weights_bytes: int, workspace_bytes: int, cache: CacheGroup, logits: int) -> MemoryInfo:
    """Bytes known before loading, and how they add up; `logits` of each row."""
    formula = (
        f"weights {weights_bytes} + workspace {workspace_bytes} + pages * {cache.record_bytes} "
        f"(one page holds {cache.page_tokens} tokens) + logits rows * {4 * logits}"
    )
    return MemoryInfo(weights_bytes, workspace_bytes, cache.record_bytes, formula)
