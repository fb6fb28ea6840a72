"""One model for several targets: a library each, and a weight file for each layout that they read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ..ir_passes.pipeline import Lowered, lower
from ..schedules.compat import PrimFunc, ir
from ..schedules.target import TargetProfile
from .codegen import generate_code, link, linker

WEIGHTS_FILE = "weights.safetensors"


@dataclasses.dataclass
class Variant:
    """A model lowered for one target, with its linked library (somewhere; `file` is its place in the artifact)."""

    profile: TargetProfile
    lowered: Lowered
    library: Future[Path]
    weights: str = WEIGHTS_FILE

    @property
    def file(self) -> str:
        """The library's file in the artifact."""
        return f"lib/{self.profile.name}.so"


def build_variants(
    mod: ir.IRModule,
    profiles: Sequence[TargetProfile],
    extra: Callable[[TargetProfile], dict[str, PrimFunc]],
    folder: Path,
    pool: ThreadPoolExecutor,
    seconds: dict[str, float],
    *,
    max_tokens: int,
    schemes: Mapping[str, str],
    report: Callable[[str, int, int], None],
) -> list[Variant]:
    """Lower and generate code for each profile; `pool` links the libraries into `folder` meanwhile.

    `extra` gives the kernels that stand beside the model's. `seconds` by phase are sums over the targets. Only the first variant
    keeps the texts of its phases. HeddleError where a linker is missing.
    """
    for profile in profiles:
        linker(profile)  # said before the work, not after it
    made: list[Variant] = []
    for i, profile in enumerate(profiles):
        report("lowering", 2 * i, 2 * len(profiles))
        lowered = lower(mod, profile, max_tokens=max_tokens, schemes=schemes, keep_texts=not i)
        for name, value in lowered.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + value
        report("generating code", 2 * i + 1, 2 * len(profiles))
        executable = generate_code(lowered, extra(profile), profile, seconds)
        library = folder / f"{profile.name}.so"
        made.append(Variant(profile, lowered, pool.submit(link, executable, library, profile, seconds)))
    report("generating code", 2 * len(profiles), 2 * len(profiles))
    return made


def by_layout(variants: Sequence[Variant]) -> list[list[Variant]]:
    """The variants in groups that read the same weights: equal recipes give equal bytes."""
    groups: list[list[Variant]] = []
    for variant in variants:
        for group in groups:
            if group[0].lowered.weights == variant.lowered.weights:
                group.append(variant)
                break
        else:
            groups.append([variant])
    return groups
