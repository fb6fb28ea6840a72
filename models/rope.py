"""Rotary position embeddings: inverse frequencies and the scale of cos and sin for every supported scaling.

The definitions are those of transformers 5.23 (modeling_rope_utils.py): `default` (Su et al. 2021), `linear`
(kaiokendev 2023), `dynamic` (NTK-aware, bloc97 and emozilla 2023), `yarn` (Peng et al. 2023), `llama3` (Llama 3.1),
`longrope` (Ding et al. 2024).

Two of them depend on the length of the running sequence in transformers, which makes a token's key depend on what comes
after it. Here all tables are static, so that a sequence's past never changes: `dynamic` takes its base at the configured
length, `max_position_embeddings`, and agrees with transformers up to that length. `longrope` takes the short factors where
the model's context fits into the length of pretraining, else the long ones, and agrees with transformers for sequences that
are on the same side of that length as the context; compiling with a shorter context chooses the short factors.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
DEFAULT_THETA = 10000.0


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding of one model; fields that a type does not use keep their defaults.

    `dim` is the number of rotated dimensions of a head (even); `context` the configured length in tokens, `original`
    the length of pretraining. `attention_factor` of None means the value that the YaRN or LongRoPE paper suggests. The two
    lists of factors have one for each pair of dimensions.
    """

    dim: int
    context: int
    type: str = "default"
    theta: float = DEFAULT_THETA
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
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()

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
        if self.type == "longrope":
            factors = self.long_factor if self.context > self.original else self.short_factor
            return 1 / (np.array(factors, np.float32) * self._powers(self.theta))
        return 1 / self._powers(self.theta)

    def scale(self) -> float:
        """What cos and sin are multiplied with: 1 except for `yarn` and `longrope`."""
        if self.type not in ("yarn", "longrope"):
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.type == "longrope":
            return math.sqrt(1 + math.log(self.factor) / math.log(self.original)) if self.factor > 1 else 1.0
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
