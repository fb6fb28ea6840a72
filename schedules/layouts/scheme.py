"""Quantization schemes by name: how weights are coded, and how activations are coded for them.

A name is `w4a16`, `w4a8`, `w8a8` or `w8a16` with optional suffixes: `-g32`, `-g64`, `-g128` or `-pc` (one group per
channel), `-2l` (two-level scales), `-asym` (zero points), `-min` (minima: what GGUF's Q4_1, Q4_K, Q5_1 and Q5_K have),
`-ag` (8-bit activations scaled per group instead of per token), `-f32` (16-bit activations kept in float32 instead of
two 8-bit limbs).
"""

from __future__ import annotations

import dataclasses

GROUPS = (32, 64, 128)
ACTIVATIONS = ("f32", "limbs", "int8", "int8-group")
BASES = ("w4a16", "w4a8", "w8a8", "w8a16")
SUFFIXES = ("g32", "g64", "g128", "pc", "2l", "asym", "min", "ag", "f32")
BLOCK = {4: 32, 8: 4}  # k's that the layouts keep together, by bits
MAX_GROUP_SCALE = 15  # of two-level scales


@dataclasses.dataclass(frozen=True)
class WeightFormat:
    """How weights are coded: w = (code - zero) * scale, with unsigned codes.

    `group` k's of an output channel share a float16 scale (None: all of them), and with `symmetric=False` a zero point;
    otherwise zero is 8 or 128. With `two_level` the scale is an integer 1..15 per group times a float32 per channel. With
    `minima` w = code * scale + minimum, a float16 for each group, and zero is 0.
    """

    bits: int
    group: int | None
    symmetric: bool = True
    two_level: bool = False
    minima: bool = False

    def __post_init__(self) -> None:
        if self.bits not in BLOCK:
            raise ValueError(f"no weight format of {self.bits} bits; choose 4 or 8")
        if self.group is not None and self.group not in GROUPS:
            raise ValueError(f"no groups of {self.group}; choose one of {GROUPS}, or None for one group per channel")
        if self.two_level and (self.group is None or self.bits != 4):
            raise ValueError(
                "two-level scales are for 4-bit weights in groups: 8-bit codes times a group scale would overflow the "
                "int32 sums, and one group per channel has nothing to scale; drop `2l`"
            )
        if self.minima and (self.group is None or self.two_level or not self.symmetric):
            raise ValueError(
                "minima are for weights in groups with one level of scales, and take the place of zero points; drop `min`, "
                "or take groups without `2l` and `asym`"
            )

    @property
    def name(self) -> str:
        """The name that `weight_format` reads: the bits, then the suffixes of schemes (`w4-g32-2l`, `w8-pc`)."""
        size = "pc" if self.group is None else f"g{self.group}"
        return f"w{self.bits}-{size}" + "-2l" * self.two_level + "-asym" * (not self.symmetric) + "-min" * self.minima

    @property
    def zero(self) -> int:
        """The code of 0 in symmetric formats: 8 or 128; with minima that of the minimum: 0."""
        return 0 if self.minima else 1 << (self.bits - 1)

    @property
    def codes(self) -> tuple[int, int]:
        """Smallest and largest code. Symmetric 8-bit codes leave out 0 (-128)."""
        return int(self.bits == 8 and self.symmetric and not self.minima), (1 << self.bits) - 1

    def group_size(self, columns: int) -> int:
        """k's that share a scale in a matrix of `columns` columns."""
        return columns if self.group is None else self.group

    def groups(self, columns: int) -> int:
        """Groups in a row of `columns` columns. Raises ValueError where the columns do not divide."""
        block, size = BLOCK[self.bits], self.group_size(columns)
        if columns < 1 or columns % block:
            raise ValueError(f"{columns} columns are no multiple of {block}, which {self.bits}-bit weights come in")
        if columns % size:
            fitting = [f"g{g}" for g in GROUPS if columns % g == 0]
            raise ValueError(
                f"groups of {size} do not divide {columns} columns; choose {' or '.join([*fitting, 'pc'])}"
            )
        return columns // size

    def bits_per_weight(self, columns: int) -> float:
        """Stored bits per weight of a matrix of `columns` columns, scales, zero points and minima included."""
        per_group = (8 if self.two_level else 16) + (0 if self.symmetric else 8) + (16 if self.minima else 0)
        return self.bits + (self.groups(columns) * per_group + (32 if self.two_level else 0)) / columns


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A weight format and an activation format. `activation` is one of `ACTIVATIONS`:

    f32: activations as they are, weights dequantized in registers.
    limbs: 15 bits per token, x = scale * (128 * high + low) with both limbs int8.
    int8: dynamic codes with one scale per token.
    int8-group: dynamic codes with one scale per token and group of the weights' size.
    """

    weight: WeightFormat
    activation: str

    @property
    def name(self) -> str:
        """The name, with what may be left to defaults said: `w4a8-g32` for `w4a8`."""
        width = "a16" if self.activation in ("f32", "limbs") else "a8"
        bits, dash, suffixes = self.weight.name.partition("-")
        return bits + width + dash + suffixes + {"f32": "-f32", "int8-group": "-ag"}.get(self.activation, "")

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"no activation format {self.activation!r}; choose one of {', '.join(ACTIVATIONS)}")
        if self.activation == "int8-group" and (self.weight.two_level or self.weight.group is None):
            raise ValueError(
                f"{self.name}: activations scaled per group need weights in groups with float scales; drop `ag`, or "
                "take `g32` without `2l`"
            )


def weight_format(name: str) -> WeightFormat:
    """The weight format of a name such as `w4-g32`, or of a scheme. ValueError as `scheme` raises it."""
    base, dash, suffixes = name.partition("-")
    return scheme(f"{base}a16{dash}{suffixes}" if base in ("w4", "w8") else name).weight


def scheme(name: str) -> Scheme:
    """The scheme of a name. Raises ValueError that lists the valid names where there is none."""
    base, *suffixes = name.split("-")
    if base not in BASES or not set(suffixes) <= set(SUFFIXES) or len(set(suffixes)) < len(suffixes):
        raise ValueError(
            f"unknown quantization scheme {name!r}; known are {', '.join(BASES)}, each with optional suffixes "
            f"{', '.join('-' + s for s in SUFFIXES)}, for example w4a8-g64-2l"
        )
    bits, sizes = int(base[1]), [s for s in suffixes if s == "pc" or s[0] == "g"]
    if len(sizes) > 1:
        raise ValueError(f"scheme {name!r} names several group sizes: {', '.join(sizes)}; keep one")
    size = sizes[0] if sizes else ("g32" if bits == 4 else "pc")
    wide = base.endswith("a16")
    if "ag" in suffixes and wide:
        raise ValueError(f"scheme {name!r}: -ag is for 8-bit activations; choose w{bits}a8-ag")
    if "f32" in suffixes and not wide:
        raise ValueError(f"scheme {name!r}: -f32 is for 16-bit activations; choose w{bits}a16-f32")
    group = None if size == "pc" else int(size[1:])
    weight = WeightFormat(bits, group, "asym" not in suffixes, "2l" in suffixes, "min" in suffixes)
    narrow = "int8-group" if "ag" in suffixes else "int8"
    return Scheme(weight, ("f32" if "f32" in suffixes else "limbs") if wide else narrow)
