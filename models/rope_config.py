"""Reading rotary embeddings from config.json, in both spellings: `rope_parameters`, and `rope_theta` with `rope_scaling`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from .config import ConfigReader
from .rope import DEFAULT_THETA, ROPE_TYPES, RopeConfig

_KEYS = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
    "longrope": ("short_factor", "long_factor", "factor", "original_max_position_embeddings", "attention_factor"),
}


def read_rope(
    reader: ConfigReader, *, head_dim: int, context: int, partial: float | None = None, theta: float = DEFAULT_THETA
) -> RopeConfig:
    """The rotary embedding of a config in either spelling; problems go to the reader.

    `partial` and `theta` are the family's defaults of the part of a head that is rotated (None: always the whole), and of the
    base.
    """
    return rope_of(reader, _merged(reader), head_dim=head_dim, context=context, partial=partial, theta=theta)


def read_layer_ropes(
    reader: ConfigReader,
    types: Sequence[str],
    *,
    head_dim: int,
    context: int,
    bases: Mapping[str, tuple[str, float]],
    scaled: Sequence[str] = ("full_attention",),
) -> tuple[RopeConfig, ...]:
    """The rotary embedding of each layer, where the kinds of layers that `types` lists have their own.

    `rope_parameters` has an object for each kind. In the older spelling `bases` gives for each kind the key of its base and the
    family's default, and `rope_scaling` scales layers of the kinds `scaled`.
    """
    new, old = _objects(reader)
    if unknown := [key for key in new if key not in bases]:
        why = f"it must have an object for each of {', '.join(bases)}"
        reader.bad("rope_parameters", f'config key "rope_parameters" has "{unknown[0]}"', why, "check `architectures`")
    nested = dict.fromkeys(scaled, old) if old else new
    ropes = {}
    for kind, (key, theta) in bases.items():
        given = nested.get(kind) or {}
        if not isinstance(given, Mapping):
            reader.bad(
                "rope_parameters", f'config key "rope_parameters.{kind}" is {given!r:.80}', "it must be an object"
            )
            given = {}
        merged = dict(given)
        _fill(reader, merged, key, "rope_theta")
        ropes[kind] = rope_of(
            reader,
            merged,
            head_dim=head_dim,
            context=context,
            partial=None,
            theta=theta,
            kind="" if old else f"{kind}.",
        )
    return tuple(ropes[kind] for kind in types)


def rope_of(
    reader: ConfigReader,
    given: Mapping[str, Any],
    *,
    head_dim: int,
    context: int,
    partial: float | None,
    theta: float,
    kind: str = "",
) -> RopeConfig:
    """The rotary embedding of one object of rope parameters; `kind` is its prefix in messages where there are several."""
    spelling = "rope_parameters." if "rope_parameters" in reader.raw else "rope_scaling."
    inner = ConfigReader(given, where=spelling + kind)
    for key in ("rope_type", "type"):
        inner.seen.add(key)
    type_key = "rope_type" if given.get("rope_type") is not None else "type"
    rope_type = inner.choice(type_key, ROPE_TYPES, "default")
    theta = inner.number("rope_theta", theta)
    part = inner.number("partial_rotary_factor", 1.0 if partial is None else partial)
    dim, what = int(head_dim * part), f"partial_rotary_factor is {part}"
    if partial is None and part != 1:
        why = "models of this family rotate whole heads"
        inner.bad("partial_rotary_factor", what, why, "check `architectures`")
    elif inner.valid("partial_rotary_factor") and (part > 1 or dim < 2 or dim % 2):
        why = f"{dim} of {head_dim} dimensions cannot be rotated in pairs"
        inner.bad("partial_rotary_factor", what, why, "check head_dim and partial_rotary_factor")
    if not inner.valid("partial_rotary_factor"):
        dim = head_dim
    rope = RopeConfig(dim=dim, context=context, type=rope_type, theta=theta)
    if inner.valid(type_key):
        values = _read_values(inner, rope_type, context)
        _check_keys(inner, rope_type)
        rope = dataclasses.replace(rope, **values)
        _check_values(inner, rope)
        if rope.type == "longrope":
            _check_factors(inner, rope)
    reader.problems.extend(inner.problems)
    return rope


def _merged(reader: ConfigReader) -> dict[str, Any]:
    """One dictionary in the spelling of `rope_parameters`. Where both spellings are given they must agree."""
    new, old = _objects(reader)
    merged = dict(new or old)
    original = reader.get("original_max_position_embeddings", None)
    keys = _KEYS.get(str(merged.get("rope_type", merged.get("type"))), ())
    if original is not None and "original_max_position_embeddings" in keys:  # transformers lets the outer value win
        merged["original_max_position_embeddings"] = original
    for key in ("rope_theta", "partial_rotary_factor"):
        _fill(reader, merged, key, key)
    return merged


def _objects(reader: ConfigReader) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """`rope_parameters` and `rope_scaling`, both empty where one is no object."""
    new, old = ({} if (v := reader.get(key, {})) == {} else v for key in ("rope_parameters", "rope_scaling"))
    for key, value in (("rope_parameters", new), ("rope_scaling", old)):
        if not isinstance(value, Mapping):
            reader.bad(key, f'config key "{key}" is {value!r:.80}', "it must be an object or null")
            return {}, {}
    if new and old and new != old:
        why = "they are two spellings of one thing"
        reader.bad("rope_scaling", "rope_parameters and rope_scaling disagree", why, "keep rope_parameters")
    return new, old


def _fill(reader: ConfigReader, merged: dict[str, Any], key: str, inner_key: str) -> None:
    """Put the value of an outer key among the rope parameters."""
    outer, inner = reader.get(key, None), merged.get(inner_key)
    if outer is not None and inner is not None and outer != inner:
        reader.bad(key, f"{key} is {outer} and also {inner} among the rope parameters", "", "keep one of the two")
    if inner is None and outer is not None:
        merged[inner_key] = outer


def _read_values(inner: ConfigReader, rope_type: str, context: int) -> dict[str, Any]:
    """The fields that `rope_type` uses."""
    values: dict[str, Any] = {}
    keys = _KEYS[rope_type]
    if "original_max_position_embeddings" in keys:
        values["original"] = inner.integer("original_max_position_embeddings", context)
    if rope_type == "longrope" and inner.get("factor", None) is None:
        values["factor"] = max(1.0, context / values["original"])
    elif rope_type == "yarn" and "factor" in inner.raw and inner.raw["factor"] is None:
        inner.seen.add("factor")  # null asks for the ratio of the two lengths
        values["factor"] = context / values["original"]
    elif "factor" in keys:
        values["factor"] = inner.number("factor")
    for key in ("low_freq_factor", "high_freq_factor"):
        if key in keys:
            values[key] = inner.number(key)
    for key in ("short_factor", "long_factor"):
        if key in keys:
            values[key] = _read_factors(inner, key)
    if "attention_factor" in keys and inner.get("attention_factor", None) is not None:
        values["attention_factor"] = float(inner.number("attention_factor"))
    if rope_type == "yarn":
        for key, default in (("beta_fast", 32), ("beta_slow", 1)):
            values[key] = inner.number(key, default, positive=False) or default
        for key in ("mscale", "mscale_all_dim"):
            values[key] = inner.number(key, 0.0, positive=False)
        values["truncate"] = inner.boolean("truncate", True)
    return values


def _read_factors(inner: ConfigReader, key: str) -> tuple[float, ...]:
    """A list of positive numbers."""
    given = inner.get(key)
    numbers = given if isinstance(given, list) else []
    if not numbers or not all(type(n) in (int, float) and 0 < n < 1e30 for n in numbers):
        if inner.valid(key):
            what = f'config key "{inner.where}{key}" is {given!r:.80}'
            inner.bad(key, what, "it must list a positive number for each pair of rotary dimensions")
        return ()
    return tuple(float(n) for n in numbers)


def _check_keys(inner: ConfigReader, rope_type: str) -> None:
    """Report keys without a meaning for this type; unlike a whole config's, they have no list to ignore."""
    valid = (*_KEYS[rope_type], "rope_type", "rope_theta")
    for key, value in inner.raw.items():
        if key not in inner.seen and value is not None:
            why = f'rope type "{rope_type}" knows {", ".join(valid)}'
            inner.bad(key, f'unknown rope parameter "{key}"', why, "remove or correct it")


def _check_values(inner: ConfigReader, rope: RopeConfig) -> None:
    """Values that are each possible but not together."""
    if rope.type == "llama3" and rope.high_freq_factor <= rope.low_freq_factor:
        why = f"{rope.high_freq_factor} <= {rope.low_freq_factor}"
        inner.bad("high_freq_factor", "high_freq_factor must be greater than low_freq_factor", why)
    if rope.type == "dynamic" and rope.dim <= 2:
        inner.bad("head_dim", f"{rope.dim} rotary dimensions", "dynamic rope needs more than 2")
    if rope.factor < 1:
        inner.bad("factor", f"rope factor is {rope.factor}", "it must be at least 1")
    if rope.type in ("yarn", "dynamic") and rope.theta <= 1:
        inner.bad("rope_theta", f"rope_theta is {rope.theta}", f"{rope.type} needs more than 1")
    if rope.type == "yarn" and rope.beta_fast < rope.beta_slow:
        inner.bad("beta_fast", "beta_fast must not be less than beta_slow", f"{rope.beta_fast} < {rope.beta_slow}")


def _check_factors(inner: ConfigReader, rope: RopeConfig) -> None:
    """LongRoPE's factors against the number of rotary dimensions, and what its scale needs."""
    for key in ("short_factor", "long_factor"):
        count = len(getattr(rope, key))
        if inner.valid(key) and count != rope.dim // 2:
            inner.bad(key, f"{key} has {count} numbers", f"{rope.dim} rotary dimensions are {rope.dim // 2} pairs")
    if rope.original < 2 and rope.attention_factor is None:
        what = f"original_max_position_embeddings is {rope.original}"
        inner.bad("original_max_position_embeddings", what, "longrope needs more than 1")
