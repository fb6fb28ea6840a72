"""The decoder that the families of `families/` configure: three modules, one for each exported function.

A function takes exactly the parameters it uses, in the order of their construction. q, k, v and gate, up are separate linears
here, whatever a checkpoint fuses; a pass merges them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from ..ir_passes import dialect
from ..runtime.plans import PlanLayout
from ..runtime.plans.cache import STORAGE, cache_record
from ..schedules.compat import nn, tvm
from .decoder_config import DecoderConfig
from .layers import MLP, Attention, Dtypes, Linear, Table, norm, rope_tables
from .registry import Architecture, register
from .weights import FLOAT_DTYPES, Weight, WeightSpec, expand


class Layer(nn.Module):
    """One decoder layer: attention and MLP, with norms before or after them, one after the other or side by side."""

    def __init__(self, layer: int, config: DecoderConfig, dtypes: Dtypes, layout: PlanLayout) -> None:
        self.config = config
        self.attn = Attention(layer, config, dtypes, layout)
        self.mlp = MLP(layer, config, dtypes)
        for name in config.norms:
            setattr(self, name, norm(config))

    def forward(
        self, x: nn.Tensor, table: nn.Tensor | None, positions: nn.Tensor, plan: nn.Tensor, cache: nn.Tensor
    ) -> tuple[nn.Tensor, nn.Tensor]:
        """x float32 [n, H] after this layer, and the cache."""
        read = self._norm("attn_norm", x)
        out, cache = self.attn(read, table, positions, plan, cache)
        y = self._add(self._norm("attn_post_norm", out), x)
        if self.config.parallel:
            read = self._norm("mlp_norm", x) if "mlp_norm" in self.config.norms else read
        else:
            read = self._norm("mlp_norm", y)
        return self._add(self._norm("mlp_post_norm", self.mlp(read)), y), cache

    def _norm(self, name: str, x: nn.Tensor) -> nn.Tensor:
        return getattr(self, name)(x) if name in self.config.norms else x

    def _add(self, out: nn.Tensor, x: nn.Tensor) -> nn.Tensor:
        """The residual sum."""
        scale = self.config.residual_scale
        return dialect.add(dialect.scale(out, scale) if scale != 1 else out, x)


class Embed(nn.Module):
    """tokens int32 [n] -> x float32 [n, H]."""

    def __init__(self, config: DecoderConfig, dtypes: Dtypes) -> None:
        self.scale = config.embed_scale
        self.embed = Table("embed", config.vocab_size, config.hidden_size, dtypes)

    def forward(self, tokens: nn.Tensor) -> nn.Tensor:
        """The tokens' embeddings."""
        x = self.embed(tokens)
        return dialect.scale(x, self.scale) if self.scale != 1 else x


class Body(nn.Module):
    """x float32 [n, H] at positions int32 [n] -> hidden float32 [n, H], the final norm applied."""

    def __init__(self, config: DecoderConfig, dtypes: Dtypes, layout: PlanLayout, layer: type[nn.Module]) -> None:
        self.config = config
        self.positions = (
            Table("positions", config.position_rows, config.hidden_size, dtypes) if config.position_rows else None
        )
        self.layers = nn.ModuleList([layer(i, config, dtypes, layout) for i in range(config.num_layers)])
        self.norm = norm(config)

    def forward(self, x: nn.Tensor, positions: nn.Tensor, plan: nn.Tensor, cache: nn.Tensor) -> nn.Tensor:
        """The hidden states of this step's rows."""
        if self.positions is not None:
            x = dialect.add(x, self.positions(positions))
        for layer, table in zip(self.layers, rope_tables(self.config.ropes, positions), strict=True):
            x, cache = layer(x, table, positions, plan, cache)
        return self.norm(x)


class Head(nn.Module):
    """Chosen rows int32 [r] of hidden float32 [n, H] -> logits float32 [r, V]."""

    def __init__(self, config: DecoderConfig, dtypes: Dtypes) -> None:
        self.config = config
        if config.tie_embeddings:
            self.embed = Table("embed", config.vocab_size, config.hidden_size, dtypes)
            self.bias = None
        else:
            axes = ("vocab", "hidden")
            self.lm_head = Linear("lm_head", axes, config.sizes, dtypes, bias=config.head_bias)

    def forward(self, hidden: nn.Tensor, rows: nn.Tensor) -> nn.Tensor:
        """The logits. Their scale multiplies the hidden states, which are fewer."""
        x = dialect.gather_rows(hidden, rows)
        if self.config.logit_scale != 1:
            x = dialect.scale(x, self.config.logit_scale)
        if self.config.tie_embeddings:
            logits = dialect.linear(x, self.embed.weight, site="lm_head", axes=("vocab", "hidden"))
        else:
            logits = self.lm_head(x)
        return dialect.softcap(logits, self.config.logit_softcap) if self.config.logit_softcap else logits


def register_decoder(
    name: str,
    model_type: str,
    config: Callable[..., DecoderConfig],
    table: Sequence[Weight],
    *,
    ignored: str = "",
    base: str = "model.",
    layer: type[nn.Module] = Layer,
) -> Architecture:
    """Register a decoder architecture: how its config is read, its table of weights, and its layer where that is its own.

    `base` is the prefix of the names of all weights but the head's.
    """
    weights = functools.partial(decoder_weights, table, base)
    export = functools.partial(export_decoder, weights, layer)
    return register(Architecture(name, model_type, config, weights, export, ignored))


def decoder_weights(table: Sequence[Weight], base: str, config: DecoderConfig) -> dict[str, WeightSpec]:
    """Every parameter of the exported functions and where it stands in a checkpoint."""
    return expand(table, layers=config.num_layers, sizes=config.sizes, flags=config, base=base)


def export_decoder(
    weights: Callable[[DecoderConfig], dict[str, WeightSpec]],
    layer: type[nn.Module],
    config: DecoderConfig,
    dtypes: Dtypes,
    kv_dtype: str,
    layout: PlanLayout,
) -> tvm.IRModule:
    """The functions `embed`, `body` and `head` as dialect calls, with symbolic n, r, p and num_pages.

    Each takes its inputs, then the parameters it uses, named as in `weights`; the attribute `num_input` says where
    these begin. The cache is [num_pages, layers, kv heads, record]; `runtime.plans.cache` says what stands in a record.
    """
    check_dtypes(weights(config), dtypes, kv_dtype)
    size = cache_record(kv_dtype, config.head_dim, config.head_dim).size
    record = [config.num_layers, config.num_kv_heads, size]
    hidden = nn.spec.Tensor(["n", config.hidden_size], "float32")
    cache = nn.spec.Tensor(["num_pages", *record], STORAGE[kv_dtype])
    inputs = {"x": hidden, "positions": ids("n"), "plan": ids("p"), "cache": cache}
    return export_functions(
        {
            "embed": (Embed(config, dtypes), {"tokens": ids("n")}),
            "body": (Body(config, dtypes, layout, layer), inputs),
            "head": (Head(config, dtypes), {"hidden": hidden, "rows": ids("r")}),
        }
    )


def ids(size: str) -> nn.spec.Tensor:
    """An int32 vector of a symbolic size."""
    return nn.spec.Tensor([size], "int32")


def export_functions(functions: dict[str, tuple[nn.Module, dict[str, Any]]]) -> tvm.IRModule:
    """A Relax function of each module's `forward`, with these inputs."""
    modes = {"param_mode": "plain", "effect_mode": "none"}
    exported = {}
    for name, (module, inputs) in functions.items():
        mod, _ = module.export_tvm({"forward": {**inputs, "$": modes}})
        exported[name] = mod["forward"].with_attr("global_symbol", name)
    return tvm.IRModule(exported)


def check_dtypes(specs: dict[str, WeightSpec], dtypes: Dtypes, kv_dtype: str) -> None:
    """A wrong name or type among `dtypes` would silently fall back to float32."""
    stored = [param for param, spec in specs.items() if spec.kind != "vector"]
    unknown = [param for param in dtypes if param not in stored]
    if unknown:
        raise ValueError(
            f"dtypes are given for {', '.join(unknown[:5])}, which are no linear or embedding weights of this model"
        )
    for dtype in set(dtypes.values()):
        if dtype not in FLOAT_DTYPES:
            raise ValueError(f"dtype {dtype!r} is not supported; supported: {', '.join(FLOAT_DTYPES)}")
    if kv_dtype not in STORAGE:
        raise ValueError(f"kv_dtype {kv_dtype!r} is not supported; supported: {', '.join(STORAGE)}")
