"""The option `--quant` of the verbs that compile, and quantization schemes for people to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ..runtime.manifest import QuantizedSite

F = TypeVar("F", bound=Callable[..., Any])
HELP = (
    "Quantize: a scheme (w4a8, w4a16, w8a8, w8a16), or SITE=SCHEME for sites of a pattern (lm_head=w8a16, "
    "'layers.*.mlp.down=w8a8'); may be given several times. Of a quantized checkpoint `keep` keeps the codes "
    "(the default), `keep-a16` does so with 16-bit activations, `none` dequantizes."
)


def parse(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> Any:
    """The options as `compile_model` takes them."""
    if not values:
        return None
    from ..compiler.quant import parse_options

    return parse_options(values)


def quant_option(name: str = "--quant", help: str = HELP) -> Callable[[F], F]:
    """A `--quant` option; the function gets what `compile_model` takes, None where it is not given."""
    return click.option(name, multiple=True, metavar="SCHEME", callback=parse, help=help)


def summary(schemes: Mapping[str, str], quantized: Mapping[str, QuantizedSite], stored: str) -> dict[str, str]:
    """Sites with layer numbers as `*`, and their schemes; several where layers differ. `stored` stands for "none".

    Of sites that the checkpoint had quantized it says what became of their codes.
    """
    found: dict[str, list[str]] = {}
    for site, scheme in schemes.items():
        pattern = ".".join("*" if part.isdigit() else part for part in site.split("."))
        plain = stored if scheme == "none" else scheme
        found.setdefault(pattern, []).append(quantized[site].became(scheme, stored) if site in quantized else plain)
    return {pattern: ", ".join(dict.fromkeys(used)) for pattern, used in found.items()}
