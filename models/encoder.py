"""The encoder that families configure: every token sees the whole of its sequence, and there are no logits.

A sequence is served in one step, so that a layer's keys and values are needed until its attention has read them: all layers
write the same pages, one after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from ..ir_passes import dialect
from ..runtime.manifest import ENCODER
from ..runtime.plans import PlanLayout
from ..runtime.plans.cache import STORAGE, cache_record
from ..schedules.compat import nn, relax, tvm
from .decoder import Embed, check_dtypes, export_functions, ids
from .encoder_config import EncoderConfig
from .layers import MLP, Attention, Dtypes, norm, rope_tables
from .registry import Architecture, register
from .weights import WeightSpec


class Layer(nn.Module):
    """One encoder layer."""

    def __init__(self, layer: int, config: EncoderConfig, dtypes: Dtypes, layout: PlanLayout) -> None:
        self.post_norm = config.post_norm
        self.attn = Attention(layer, config, dtypes, layout, slot=0)
        # The first layer of a pre-norm encoder reads embeddings that are normalised already.
        self.attn_norm = norm(config) if layer or config.post_norm else None
        self.mlp = MLP(layer, config, dtypes)
        self.mlp_norm = norm(config)

    def forward(
        self, x: nn.Tensor, table: nn.Tensor | None, positions: nn.Tensor, plan: nn.Tensor, cache: nn.Tensor
    ) -> tuple[nn.Tensor, nn.Tensor]:
        """x float32 [n, H] after this layer, and the pages."""
        if self.post_norm:
            out, cache = self.attn(x, table, positions, plan, cache)
            x = self._attn_norm(dialect.add(out, x))
            return self.mlp_norm(dialect.add(self.mlp(x), x)), cache
        out, cache = self.attn(self._attn_norm(x), table, positions, plan, cache)
        x = dialect.add(out, x)
        return dialect.add(self.mlp(self.mlp_norm(x)), x), cache

    def _attn_norm(self, x: nn.Tensor) -> nn.Tensor:
        return x if self.attn_norm is None else self.attn_norm(x)


class Vectors(nn.Module):
    """A float32 table [rows, H], small enough not to be stored in less."""

    def __init__(self, rows: int, config: EncoderConfig) -> None:
        self.weight = nn.Parameter((rows, config.hidden_size), "float32")


class Body(nn.Module):
    """x float32 [n, H] at positions int32 [n] -> hidden float32 [n, H]."""

    def __init__(self, config: EncoderConfig, dtypes: Dtypes, layout: PlanLayout) -> None:
        self.config = config
        self.positions = Vectors(config.position_rows, config) if config.position_rows else None
        self.types = Vectors(1, config) if config.types else None
        self.embed_norm = norm(config)
        self.layers = nn.ModuleList([Layer(i, config, dtypes, layout) for i in range(config.num_layers)])
        self.norm = None if config.post_norm else norm(config)

    def forward(self, x: nn.Tensor, positions: nn.Tensor, plan: nn.Tensor, cache: nn.Tensor) -> nn.Tensor:
        """The hidden states of this step's rows."""
        if self.positions is not None:
            x = dialect.add(x, dialect.embedding(positions, self._table(), site="positions"))
        x = self.embed_norm(x)
        for layer, table in zip(self.layers, rope_tables(self.config.ropes, positions), strict=True):
            x, cache = layer(x, table, positions, plan, cache)
        return x if self.norm is None else self.norm(x)

    def _table(self) -> nn.Tensor:
        """Positions with the type that all tokens have: a sum of weights, which is computed when the model is compiled."""
        assert self.positions is not None
        if self.types is None:
            return self.positions.weight
        return nn.wrap_nested(relax.op.add(self.positions.weight._expr, self.types.weight._expr), "position_table")


def register_encoder(
    name: str,
    model_type: str,
    config: Callable[..., EncoderConfig],
    weights: Callable[[EncoderConfig], dict[str, WeightSpec]],
    *,
    ignored: str = "",
    poolers: tuple[str, ...] = (),
) -> Architecture:
    """Register an encoder architecture: how its config is read, and where its parameters stand in a checkpoint."""
    export = functools.partial(export_encoder, weights)
    return register(Architecture(name, model_type, config, weights, export, ignored, ENCODER, poolers))


def export_encoder(
    weights: Callable[[EncoderConfig], dict[str, WeightSpec]],
    config: EncoderConfig,
    dtypes: Dtypes,
    kv_dtype: str,
    layout: PlanLayout,
) -> tvm.IRModule:
    """The functions `embed` and `body` as dialect calls, with symbolic n, p and num_pages, otherwise as `export_decoder`."""
    check_dtypes(weights(config), dtypes, kv_dtype)
    size = cache_record(kv_dtype, config.head_dim, config.head_dim).size
    hidden = nn.spec.Tensor(["n", config.hidden_size], "float32")
    cache = nn.spec.Tensor(["num_pages", 1, config.num_heads, size], STORAGE[kv_dtype])
    inputs = {"x": hidden, "positions": ids("n"), "plan": ids("p"), "cache": cache}
    return export_functions(
        {
            "embed": (Embed(config, dtypes), {"tokens": ids("n")}),
            "body": (Body(config, dtypes, layout), inputs),
        }
    )
