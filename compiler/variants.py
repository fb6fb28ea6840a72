"""One model for several targets: a library each, and a weight file for each layout that they read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ..ir_passes.pipeline import Lowered, lower_dialect, lower_kernels
from ..schedules.compat import PrimFunc, ir
from ..schedules.layouts.rows import row_tile
from ..schedules.target import TargetProfile
from .codegen import Library, build_library

WEIGHTS_FILE = "weights.safetensors"


@dataclasses.dataclass
class Variant:
    """A model lowered for one target, with its library to come (somewhere; `file` is its place in the artifact)."""

    profile: TargetProfile
    lowered: Lowered
    library: Future[Library]
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
    """Lower for each profile in turn, while `pool` generates code for those before it and links it in `folder`.

    `extra` gives the kernels that stand beside the model's. `seconds` by phase are sums over the targets. Only the first variant
    keeps the texts of its phases.
    """
    packed: dict[int, Lowered] = {}  # by the layout of activations, all that the dialect's phases know of a target
    made: list[Variant] = []
    for i, profile in enumerate(profiles):
        report("lowering", i, len(profiles))
        layout = row_tile(profile)
        if layout not in packed:
            packed[layout] = lower_dialect(mod, profile, schemes=schemes, keep_texts=not i)
            add_seconds(seconds, packed[layout].seconds)
        lowered = lower_kernels(packed[layout], profile, max_tokens=max_tokens, keep_texts=not i)
        add_seconds(seconds, lowered.seconds)
        library = build_library(lowered, extra(profile), profile, folder / f"{profile.name}.so", pool)
        made.append(Variant(profile, lowered, library))
    report("lowering", len(profiles), len(profiles))
    return made


def finished(
    variants: Sequence[Variant], seconds: dict[str, float], report: Callable[[str, int, int], None]
) -> Iterator[tuple[Variant, Path]]:
    """The variants with their libraries, one after the other as they are done. Raises what went wrong with any."""
    for i, variant in enumerate(variants):
        report("generating code", i, len(variants))
        library = variant.library.result()
        add_seconds(seconds, {"codegen": library.codegen, "link": library.link})
        yield variant, library.path
    report("generating code", len(variants), len(variants))


def add_seconds(seconds: dict[str, float], more: Mapping[str, float]) -> None:
    """Add to the seconds by phase."""
    for name, value in more.items():
        seconds[name] = seconds.get(name, 0.0) + value


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
