"""Rotary position embeddings: inverse frequencies and the scale of cos and sin for every supported scaling.

The definitions are those of transformers 5.23 (modeling_rope_utils.py): `default` (Su et al. 2021), `linear`
(kaiokendev 2023), `dynamic` (NTK-aware, bloc97 and emozilla 2023), `yarn` (Peng et al. 2023), `llama3` (Llama 3.1).
Both spellings are read: `rope_parameters`, and the older `rope_theta` with `rope_scaling`.

`dynamic` grows its base with the length of the running sequence in transformers, which makes a token's key depend on
what comes after it. Here the table is static: the base is taken at the configured length, `max_position_embeddings`,
so a sequence's past never changes. Up to that length the two definitions agree.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .config import ConfigReader

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
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
}
_DEFAULT_THETA = 10000.0


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding of one model; fields that a type does not use keep their defaults.

    `dim` is the number of rotated dimensions of a head (even); `context` the configured length in tokens, `original`
    the length of pretraining. `attention_factor` of None means the value that the YaRN paper suggests.
    """

    dim: int
    context: int
    type: str = "default"
    theta: float = _DEFAULT_THETA
    factor: float = 1.0
    original: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float | None = None
    beta_fast: float = 32
    beta_slow: float = 1
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    truncate: bool = True

    def inv_freq(self) -> np.ndarray:
        """Inverse frequencies in radians per token: float32 [dim / 2]."""
        if self.type == "linear":
            return 1 / self._powers(self.theta) / np.float32(self.factor)
        if self.type == "dynamic":
            growth = (self.factor * self.context / self.context) - (self.factor - 1)
            return 1 / self._powers(self.theta * growth ** (self.dim / (self.dim - 2)))
        if self.type == "llama3":
            return self._llama3()
        if self.type == "yarn":
            return self._yarn()
        return 1 / self._powers(self.theta)

    def scale(self) -> float:
        """What cos and sin are multiplied with: 1 except for `yarn`."""
        if self.type != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return _mscale(self.factor, self.mscale) / _mscale(self.factor, self.mscale_all_dim)
        return _mscale(self.factor, 1.0)

    def _powers(self, theta: float) -> np.ndarray:
        """theta ** (2i / dim), each step rounded to float32; NumPy's own float32 power differs by machine."""
        exponents = np.arange(0, self.dim, 2, dtype=np.float32) / np.float32(self.dim)
        return (np.float64(np.float32(theta)) ** exponents.astype(np.float64)).astype(np.float32)

    def _llama3(self) -> np.ndarray:
        """Wavelengths beyond the pretraining context are stretched by `factor`, short ones kept, the rest blended."""
        inv_freq = 1 / self._powers(self.theta)
        wavelength = np.float32(2 * math.pi) / inv_freq
        low, high = self.original / self.low_freq_factor, self.original / self.high_freq_factor
        factor = np.float32(self.factor)
        stretched = np.where(wavelength > low, inv_freq / factor, inv_freq)
        smooth = (np.float32(self.original) / wavelength - np.float32(self.low_freq_factor)) / np.float32(
            self.high_freq_factor - self.low_freq_factor
        )
        blended = (1 - smooth) * stretched / factor + smooth * stretched
        between = ~(wavelength < high) & ~(wavelength > low)
        return np.where(between, blended, stretched)

    def _yarn(self) -> np.ndarray:
        """Dimensions that turn often in the pretraining context are kept, slow ones interpolated, a ramp between."""
        powers = self._powers(self.theta)
        low, high = self._correction_dim(self.beta_fast), self._correction_dim(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.dim - 1)
        if low == high:
            high += 0.001  # the ramp becomes a step
        ramp = np.clip((np.arange(self.dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
        keep = 1 - ramp
        return 1 / (np.float32(self.factor) * powers) * (1 - keep) + 1 / powers * keep

    def _correction_dim(self, rotations: float) -> float:
        """The dimension that makes `rotations` turns within the pretraining context."""
        return self.dim * math.log(self.original / (rotations * 2 * math.pi)) / (2 * math.log(self.theta))


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def read_rope(reader: ConfigReader, *, dim: int, context: int) -> RopeConfig:
    """The rotary embedding of a config in either spelling; problems go to the reader."""
    given = _merged(reader)
    inner = ConfigReader(given, where="rope_parameters." if "rope_parameters" in reader.raw else "rope_scaling.")
    for key in ("rope_type", "type"):
        inner.seen.add(key)
    type_key = "rope_type" if given.get("rope_type") is not None else "type"
    rope_type = inner.choice(type_key, ROPE_TYPES, "default")
    theta = inner.number("rope_theta", _DEFAULT_THETA)
    if inner.number("partial_rotary_factor", 1.0) != 1.0:
        inner.bad(
            "partial_rotary_factor",
            f"partial_rotary_factor is {given['partial_rotary_factor']}",
            "models of this family rotate whole heads",
            "check `architectures`",
        )
    rope = RopeConfig(dim=dim, context=context, type=rope_type, theta=theta)
    if inner.valid(type_key):
        values = _read_values(inner, rope_type, context)
        _check_keys(inner, rope_type)
        rope = dataclasses.replace(rope, **values)
        _check_values(inner, rope)
    reader.problems.extend(inner.problems)
    return rope


def _merged(reader: ConfigReader) -> dict[str, Any]:
    """One dictionary in the spelling of `rope_parameters`. Where both spellings are given they must agree."""
    new, old = ({} if (v := reader.get(key, {})) == {} else v for key in ("rope_parameters", "rope_scaling"))
    for key, value in (("rope_parameters", new), ("rope_scaling", old)):
        if not isinstance(value, Mapping):
            reader.bad(key, f'config key "{key}" is {value!r:.80}', "it must be an object or null")
            return {}
    if new and old and new != old:
        why = "they are two spellings of one thing"
        reader.bad("rope_scaling", "rope_parameters and rope_scaling disagree", why, "keep rope_parameters")
    merged = dict(new or old)
    original = reader.get("original_max_position_embeddings", None)
    if original is not None:  # transformers lets the outer value win
        merged["original_max_position_embeddings"] = original
    for key in ("rope_theta", "partial_rotary_factor"):
        outer, inner = reader.get(key, None), merged.get(key)
        if outer is not None and inner is not None and outer != inner:
            reader.bad(key, f"{key} is {outer} and also {inner} among the rope parameters", "", "keep one of the two")
        if inner is None and outer is not None:
            merged[key] = outer
    return merged


def _read_values(inner: ConfigReader, rope_type: str, context: int) -> dict[str, Any]:
    """The fields that `rope_type` uses."""
    values: dict[str, Any] = {}
    keys = _KEYS[rope_type]
    if "original_max_position_embeddings" in keys:
        values["original"] = inner.integer("original_max_position_embeddings", context)
    if rope_type == "yarn" and "factor" in inner.raw and inner.raw["factor"] is None:
        inner.seen.add("factor")  # null asks for the ratio of the two lengths
        values["factor"] = context / values["original"]
    elif "factor" in keys:
        values["factor"] = inner.number("factor")
    for key in ("low_freq_factor", "high_freq_factor"):
        if key in keys:
            values[key] = inner.number(key)
    if rope_type == "yarn":
        if inner.get("attention_factor", None) is not None:
            values["attention_factor"] = float(inner.number("attention_factor"))
        for key, default in (("beta_fast", 32), ("beta_slow", 1)):
            values[key] = inner.number(key, default, positive=False) or default
        for key in ("mscale", "mscale_all_dim"):
            values[key] = inner.number(key, 0.0, positive=False)
        values["truncate"] = inner.boolean("truncate", True)
    return values


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
