"""Which site is quantized how: one scheme for the model, or a map from patterns of sites to schemes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from ...runtime.errors import HeddleError
from ...schedules.layouts.scheme import Scheme, scheme

KEEP = "none"
"""The scheme name of sites that have floats: those of the checkpoint, or what its codes stand for."""

HEADS = ("embed", "lm_head")
"""Sites that one scheme for the model leaves at 8 bits: they decide every token, and embeddings are read one row at a time."""


@dataclasses.dataclass(frozen=True)
class Keep:
    """Keep the checkpoint's own codes, with activations in the format `activation` (of `schedules.layouts.scheme`)."""

    activation: str


OWN_CODES = {"keep": Keep("int8"), "keep-a16": Keep("limbs")}
"""Names that stand for a site's own codes, beside those of schemes."""


@dataclasses.dataclass(frozen=True)
class _Rule:
    pattern: str
    scheme: Scheme | Keep | None

    @property
    def literals(self) -> int:
        """Characters that stand for themselves: the more, the more specific."""
        return sum(c not in "*?" for c in self.pattern)


def parse_sites(
    quant: str | Mapping[str, str], sites: Sequence[str], otherwise: Keep | None = None
) -> dict[str, Scheme | Keep]:
    """The scheme of each site that is quantized.

    `quant` is a scheme's name, which then holds for all sites but `HEADS` (8 bits, activations alike), or a map from
    patterns (`*` any characters, `?` one) to names of schemes, of `OWN_CODES`, or "none". Sites that no pattern matches
    get `otherwise`. The pattern with the most literal characters decides: the order of the map means nothing.

    Raises HeddleError for unknown schemes, patterns that match no site, and patterns equally specific that disagree.
    """
    rules = _rules(quant)
    matches = {site: [r for r in rules if fnmatchcase(site, _only_wildcards(r.pattern))] for site in sites}
    used = {rule.pattern for found in matches.values() for rule in found}
    unused = [rule.pattern for rule in rules if rule.pattern not in used]
    if unused and not isinstance(quant, str):
        raise HeddleError(
            f"quant: {', '.join(repr(p) for p in unused)} match{'es' if len(unused) == 1 else ''} no site of this model",
            f"its sites are {_summary(sites)}",
            "correct or remove the pattern",
        )
    chosen = {site: _most_specific(site, found) if found else otherwise for site, found in matches.items()}
    return {site: found for site, found in chosen.items() if found is not None}


def expand(quant: str) -> dict[str, str]:
    """The map that a scheme's name stands for: all sites have it, but `HEADS` have 8 bits. HeddleError for unknown names."""
    found = _scheme(quant, "quant")
    if isinstance(found, Keep):
        return {"*": quant}
    wide = found is not None and found.activation in ("limbs", "f32")
    head = KEEP if found is None else "w8a16" + ("-f32" if found.activation == "f32" else "") if wide else "w8a8"
    return {"*": quant, **dict.fromkeys(HEADS, head)}


def _rules(quant: str | Mapping[str, str]) -> list[_Rule]:
    rules = expand(quant) if isinstance(quant, str) else quant
    return [_Rule(pattern, _scheme(name, f"quant[{pattern!r}]")) for pattern, name in rules.items()]


def _scheme(name: str, where: str) -> Scheme | Keep | None:
    if name == KEEP:
        return None
    if name in OWN_CODES:
        return OWN_CODES[name]
    try:
        return scheme(name)
    except ValueError as error:
        raise HeddleError(f"{where}: {error}", "", f'"{KEEP}" leaves a site as the checkpoint stores it') from error


def _only_wildcards(pattern: str) -> str:
    """The pattern with `[` as itself: a site's name may be copied into a pattern as it is."""
    return pattern.replace("[", "[[]")


def _most_specific(site: str, rules: list[_Rule]) -> Scheme | Keep | None:
    most = max(rule.literals for rule in rules)
    first, *others = [rule for rule in rules if rule.literals == most]
    for other in others:
        if other.scheme != first.scheme:
            raise HeddleError(
                f"quant: {first.pattern!r} and {other.pattern!r} are equally specific about the site {site!r}",
                "they name different schemes",
                f"add {site!r} itself to the map",
            )
    return first.scheme


def _summary(sites: Sequence[str]) -> str:
    """Sites with layer numbers replaced by `*`, each once."""
    names = (".".join("*" if part.isdigit() else part for part in site.split(".")) for site in sites)
    return ", ".join(dict.fromkeys(names))
