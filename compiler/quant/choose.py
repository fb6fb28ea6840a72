"""How a model is quantized, decided and checked before any work starts."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase

import numpy as np

from ...models.problems import Problem, error
from ...models.quant_tensor import QuantInfo
from ...models.weights import Parameters, WeightSpec
from ...runtime.errors import HeddleError
from ...runtime.features import physical_cores
from ...schedules.catalog import scheme_obstacle
from ...schedules.cpu.quant_spec import QuantSpec
from ...schedules.layouts.scheme import BLOCK, Scheme, WeightFormat
from ...schedules.target import TargetProfile
from .keep import own_scheme
from .site_map import KEEP, OWN_CODES, Keep, expand, parse_sites

Quant = str | Mapping[str, str] | None
"""A scheme's name (or "keep", "keep-a16", "none"), a map from patterns of sites to such names, or nothing."""

EMBED, HEAD = "embed", "lm_head"
QUANTIZABLE = ("linear", "embedding")  # kinds of weights
SCAN = 1 << 22  # elements that one thread looks through at a time


def model_sites(specs: Mapping[str, WeightSpec], head: bool = True) -> dict[str, str]:
    """The parameter with the weight of each site that can be quantized; a tied head, if the model has a `head`, has the
    embedding's."""
    sites = {param.removesuffix(".weight"): param for param, spec in specs.items() if spec.kind in QUANTIZABLE}
    if head and HEAD not in sites and EMBED in sites:
        sites[HEAD] = sites[EMBED]
    return sites


@dataclasses.dataclass(frozen=True)
class Choice:
    """The scheme of each site that is quantized, and those of them that have the checkpoint's own codes."""

    schemes: dict[str, Scheme]
    kept: frozenset[str] = frozenset()


def choose(quant: Quant, sites: Mapping[str, str], stored: Mapping[str, QuantInfo]) -> Choice:
    """How each site is quantized. `sites` as `model_sites` gives them; `stored` says which the checkpoint has quantized.

    Sites that `quant` says nothing of keep their codes, or are quantized to what their info suggests where no layout holds
    these. A table that embedding and head share follows the head's scheme and is then stored once, unless some pattern of
    `quant` with letters of its own matches `embed`. HeddleError as `parse_sites` raises it, and where there is nothing to keep.
    """
    given = {} if quant is None else quant
    chosen = parse_sites(given, list(sites), otherwise=OWN_CODES["keep"] if stored else None)
    tied = EMBED in sites and sites[EMBED] == sites.get(HEAD)
    if tied and (isinstance(given, str) or not any(fnmatchcase(EMBED, p) and p.strip("*?") for p in given)):
        chosen.pop(EMBED, None)
        if HEAD in chosen:
            chosen[EMBED] = chosen[HEAD]
    if not stored and any(isinstance(found, Keep) for found in chosen.values()):
        raise HeddleError(
            "quant: there are no codes to keep",
            "the weights of this checkpoint are not quantized",
            "leave it out, or give a scheme, such as w4a8",
        )
    schemes: dict[str, Scheme] = {}
    kept: set[tuple[str, WeightFormat]] = set()
    for site, found in chosen.items():
        scheme, keeps = own_scheme(stored.get(site), found) if isinstance(found, Keep) else (found, False)
        if scheme is not None:
            schemes[site] = scheme
            kept |= {(sites[site], scheme.weight)} if keeps else set()
    # A table that two sites read in one format is stored once.
    return Choice(schemes, frozenset(site for site, scheme in schemes.items() if (sites[site], scheme.weight) in kept))


def choose_schemes(quant: Quant, sites: Mapping[str, str]) -> dict[str, Scheme]:
    """The scheme of each site of a model with float weights; see `choose`."""
    return choose(quant, sites, {}).schemes


def names(schemes: Mapping[str, Scheme], sites: Iterable[str]) -> dict[str, str]:
    """The scheme's name at each site, "none" where there is none; equal choices give equal names (`w4a8` is `w4a8-g32`)."""
    return {site: schemes[site].name if site in schemes else KEEP for site in sites}


def scheme_problems(
    schemes: Mapping[str, Scheme],
    sites: Mapping[str, str],
    specs: Mapping[str, WeightSpec],
    profile: TargetProfile,
    kept: Container[str] = (),
) -> list[Problem]:
    """Sites whose shape does not suit their scheme, and schemes that the target has no kernels for; each kind once.

    Those that have the checkpoint's own codes are `kept`.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    for site, scheme in schemes.items():
        reason, fix = scheme_obstacle(scheme, profile), ""
        if not reason:
            rows, columns = specs[sites[site]].shape
            try:
                QuantSpec(columns, rows, scheme.weight, scheme.activation)
            except ValueError as refused:
                reason, fix = str(refused), "w8a8" if columns % BLOCK[8] == 0 and scheme.weight.bits < 8 else "none"
        if reason:
            if site in kept:
                fix = "dequantize these weights (--quant none), or quantize them anew"
            found.setdefault((scheme.name, reason, fix), []).append(site)
    return [
        error(f"{name} does not fit {_some(where)}", reason, _otherwise(where, fix) if fix in ("w8a8", "none") else fix)
        for (name, reason, fix), where in found.items()
    ]


def _otherwise(sites: Sequence[str], scheme: str) -> str:
    """How to give sites another scheme, said for the first of them."""
    pattern = ".".join("*" if part.isdigit() else part for part in sites[0].split("."))
    return f"give these another scheme, as in --quant '{pattern}={scheme}'"


def finite_problems(params: Sequence[str], parameters: Parameters) -> list[Problem]:
    """Weights among `params` that are NaN or infinite: no scale can represent them."""
    problems = []
    with ThreadPoolExecutor(len(physical_cores())) as pool:
        for param in dict.fromkeys(params):
            name = parameters.names[param]
            flat = parameters.read(param).reshape(-1)
            pieces = [flat[start : start + SCAN] for start in range(0, len(flat), SCAN)]
            bad = next((i for i, fine in enumerate(pool.map(_finite, pieces)) if not fine), None)
            if bad is None:
                continue
            at = bad * SCAN + int(np.argmin(np.isfinite(pieces[bad].astype(np.float32))))
            columns = parameters.specs[param].shape[-1]
            value = float(flat[at])
            problems.append(
                error(
                    f"{name}[{at // columns}, {at % columns}] is {value:g}",
                    "it cannot be quantized: no scale can represent it",
                    "check the checkpoint (download it again if it should be sound), or leave this matrix unquantized",
                )
            )
    return problems


def _finite(values: np.ndarray) -> bool:
    """Whether all values are finite, told by their bits: NumPy takes bfloat16 and float16 slowly."""
    if values.itemsize == 2:
        exponent = np.uint16(0x7F80 if values.dtype.name == "bfloat16" else 0x7C00)
        bits = values.view(np.uint16) & exponent
        return bool(bits.max(initial=0) != exponent)
    return bool(np.isfinite(values).all())


def _some(sites: Sequence[str]) -> str:
    """The first sites of a list, and how many more there are."""
    shown = ", ".join(itertools.islice(sites, 3))
    return f"{shown} and {len(sites) - 3} more" if len(sites) > 3 else shown


def parse_options(options: Sequence[str]) -> Quant:
    """What `--quant` options of a command line mean: a scheme, SITE=SCHEME for patterns of sites, or a scheme and exceptions.

    With exceptions the embedding goes with the head. HeddleError for several schemes without a site.
    """
    plain = [option for option in options if "=" not in option]
    overrides = dict(option.split("=", 1) for option in options if "=" in option)
    if len(plain) > 1:
        raise HeddleError(
            f"--quant names several schemes for the whole model: {', '.join(plain)}",
            "one scheme holds for all sites that no pattern names",
            "keep one, and give the others sites: --quant w4a8 --quant 'lm_head=w4a8'",
        )
    if not plain:
        return overrides or None
    if not overrides:
        return plain[0]
    merged = {**expand(plain[0]), **overrides}
    if HEAD in overrides and EMBED not in overrides:
        merged[EMBED] = overrides[HEAD]
    return merged
