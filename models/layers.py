"""The parts that models are made of, as `relax.frontend.nn` modules that emit dialect ops.

A module's path is the beginning of its parameters' names (`layers.3.attn.q.weight`); linears carry it as their `site`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..ir_passes import dialect
from ..runtime.plans import PlanLayout
from ..schedules.compat import nn
from .decoder_config import DecoderConfig
from .rope import RopeConfig

Dtypes = Mapping[str, str]
"""Stored type of each matrix by parameter name; float32 where it has none."""


class Linear(nn.Module):
    """y = x @ w.T + bias at `site`, with logical axes (out, in) whose sizes `sizes` gives."""

    def __init__(
        self, site: str, axes: tuple[str, str], sizes: Mapping[str, int], dtypes: Dtypes, *, bias: bool = False
    ) -> None:
        out_features, in_features = (sizes[axis] for axis in axes)
        self.site, self.axes = site, axes
        self.weight = nn.Parameter((out_features, in_features), dtypes.get(f"{site}.weight", "float32"))
        self.bias = nn.Parameter((out_features,), "float32") if bias else None

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """x float32 [n, in]: float32 [n, out]."""
        return dialect.linear(x, self.weight, self.bias, site=self.site, axes=self.axes)


class RMSNorm(nn.Module):
    """Root mean square normalisation (Zhang and Sennrich 2019) of each of `groups` equal parts of a row."""

    def __init__(self, size: int, eps: float, *, groups: int = 1) -> None:
        self.eps, self.groups = eps, groups
        self.weight = nn.Parameter((size,), "float32")

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """x float32 [n, H]: float32 [n, H]."""
        return dialect.rms_norm(x, self.weight, eps=self.eps, groups=self.groups)


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016) of each of `groups` equal parts of a row."""

    def __init__(self, size: int, eps: float, *, bias: bool = True, groups: int = 1) -> None:
        self.eps, self.groups = eps, groups
        self.weight = nn.Parameter((size,), "float32")
        self.bias = nn.Parameter((size,), "float32") if bias else None

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """x float32 [n, H]: float32 [n, H]."""
        return dialect.layer_norm(x, self.weight, self.bias, eps=self.eps, groups=self.groups)


def norm(config: DecoderConfig) -> nn.Module:
    """The norm of hidden states that a config asks for."""
    if config.norm == "rms":
        return RMSNorm(config.hidden_size, config.norm_eps)
    return LayerNorm(config.hidden_size, config.norm_eps, bias=config.norm_bias)


def head_norm(config: DecoderConfig, axis: str, heads: int) -> nn.Module:
    """The norm of q or k that a config asks for; the norms of transformers' families have no bias here."""
    groups = 1 if config.qk_norm == "full" else heads
    if config.norm == "rms":
        return RMSNorm(config.sizes[axis], config.norm_eps, groups=groups)
    return LayerNorm(config.sizes[axis], config.norm_eps, bias=False, groups=groups)


class Attention(nn.Module):
    """Attention of one layer over the paged cache; heads may share a key head (GQA, Ainslie et al. 2023).

    `slot` is the place of the layer's keys and values in the cache, the layer's own unless given.
    """

    def __init__(
        self, layer: int, config: DecoderConfig, dtypes: Dtypes, layout: PlanLayout, *, slot: int | None = None
    ) -> None:
        site, sizes = f"layers.{layer}.attn.", config.sizes
        self.layer, self.slot = layer, layer if slot is None else slot
        self.config, self.layout = config, layout
        self.q = Linear(site + "q", ("heads", "hidden"), sizes, dtypes, bias=config.qkv_bias)
        self.k = Linear(site + "k", ("kv_heads", "hidden"), sizes, dtypes, bias=config.qkv_bias)
        self.v = Linear(site + "v", ("kv_heads", "hidden"), sizes, dtypes, bias=config.qkv_bias)
        if config.qk_norm:
            self.q_norm = head_norm(config, "q_norm", config.num_heads)
            self.k_norm = head_norm(config, "k_norm", config.num_kv_heads)
        self.o = Linear(site + "o", ("hidden", "heads"), sizes, dtypes, bias=config.output_bias)

    def forward(
        self, x: nn.Tensor, table: nn.Tensor | None, positions: nn.Tensor, plan: nn.Tensor, cache: nn.Tensor
    ) -> tuple[nn.Tensor, nn.Tensor]:
        """The layer's attention output and the cache with this step's keys and values; `table` is the rotary table."""
        config = self.config
        heads, kv_heads, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        q, k, v = self.q(x), self.k(x), self.v(x)
        if config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if table is not None:
            q = dialect.rope(q, table, heads=heads, head_dim=head_dim, interleaved=config.rope_interleaved)
            k = dialect.rope(k, table, heads=kv_heads, head_dim=head_dim, interleaved=config.rope_interleaved)
        place: dict[str, Any] = {"layer": self.slot, "kv_heads": kv_heads, "head_dim": head_dim, "layout": self.layout}
        cache = dialect.kv_append(k, v, plan, cache, **place)
        if config.query_beta:  # after the append, so that rotation and append fuse
            q = dialect.query_scale(q, positions, beta=config.query_beta, length=config.query_steps)
        variant: dict[str, Any] = {
            "heads": heads,
            "scale": config.attention_scale or head_dim**-0.5,
            "window": config.windows[self.layer],
            "lookahead": config.lookaheads[self.layer],
            "softcap": config.attention_softcap,
        }
        return self.o(dialect.attention(q, positions, plan, cache, **variant, **place)), cache


def rope_tables(ropes: Sequence[RopeConfig | None], positions: nn.Tensor) -> list[nn.Tensor | None]:
    """The rotary table of each layer for positions int32 [n], None without an embedding; equal embeddings share theirs."""
    tables = {
        rope: dialect.rope_table(positions, rope.inv_freq(), rope.scale()) for rope in dict.fromkeys(ropes) if rope
    }
    return [None if rope is None else tables[rope] for rope in ropes]


class MLP(nn.Module):
    """down(act(gate(x)) * up(x)) (Shazeer 2020), or down(act(up(x))) where it is not gated."""

    def __init__(self, layer: int, config: DecoderConfig, dtypes: Dtypes) -> None:
        site, sizes, bias = f"layers.{layer}.mlp.", config.sizes, config.mlp_bias
        self.activation = config.activation
        self.gate = Linear(site + "gate", ("ffn", "hidden"), sizes, dtypes, bias=bias) if config.gated else None
        self.up = Linear(site + "up", ("ffn", "hidden"), sizes, dtypes, bias=bias)
        self.down = Linear(site + "down", ("hidden", "ffn"), sizes, dtypes, bias=bias)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """x float32 [n, H]: float32 [n, H]."""
        if self.gate is None:
            return self.down(dialect.activation(self.up(x), kind=self.activation))
        return self.down(dialect.gated(self.gate(x), self.up(x), kind=self.activation))


class Table(nn.Module):
    """A table [rows, H] that is read by index; a tied head multiplies with that of the tokens."""

    def __init__(self, site: str, rows: int, width: int, dtypes: Dtypes) -> None:
        self.site = site
        self.weight = nn.Parameter((rows, width), dtypes.get(f"{site}.weight", "float32"))

    def forward(self, ids: nn.Tensor) -> nn.Tensor:
        """ids int32 [n]: float32 [n, H]."""
        return dialect.embedding(ids, self.weight, site=self.site)
