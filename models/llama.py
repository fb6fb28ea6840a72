"""The Llama family (Touvron et al. 2023): pre-norm decoder layers of rotary attention and a gated MLP.

Mistral (sliding windows) and Qwen2 (biases of q, k, v) differ from Llama in configuration alone. The model is three
modules, one for each exported function, so that a function takes exactly the parameters it uses, in the order of their
construction. q, k, v and gate, up are separate linears here; a pass merges them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ir_passes import dialect
from ..runtime.plans import PlanLayout
from ..runtime.plans.cache import STORAGE, cache_record
from ..schedules.compat import nn, tvm
from .llama_config import LlamaConfig, llama_config, mistral_config, qwen2_config
from .registry import Architecture, register
from .weights import FLOAT_DTYPES, Weight, WeightSpec, expand

Dtypes = Mapping[str, str]

_LAYER = "model.layers.{i}."
WEIGHTS = (
    Weight("embed.weight", ("model.embed_tokens.weight",), ("vocab", "hidden"), "embedding", when="untied"),
    Weight(
        "embed.weight",
        ("model.embed_tokens.weight", "lm_head.weight"),
        ("vocab", "hidden"),
        "embedding",
        when="tie_embeddings",
    ),
    Weight("layers.{i}.attn_norm.weight", (_LAYER + "input_layernorm.weight",), ("hidden",), "vector"),
    Weight("layers.{i}.attn.q.weight", (_LAYER + "self_attn.q_proj.weight",), ("heads", "hidden"), "linear"),
    Weight("layers.{i}.attn.q.bias", (_LAYER + "self_attn.q_proj.bias",), ("heads",), "vector", when="qkv_bias"),
    Weight("layers.{i}.attn.k.weight", (_LAYER + "self_attn.k_proj.weight",), ("kv_heads", "hidden"), "linear"),
    Weight("layers.{i}.attn.k.bias", (_LAYER + "self_attn.k_proj.bias",), ("kv_heads",), "vector", when="qkv_bias"),
    Weight("layers.{i}.attn.v.weight", (_LAYER + "self_attn.v_proj.weight",), ("kv_heads", "hidden"), "linear"),
    Weight("layers.{i}.attn.v.bias", (_LAYER + "self_attn.v_proj.bias",), ("kv_heads",), "vector", when="qkv_bias"),
    Weight("layers.{i}.attn.o.weight", (_LAYER + "self_attn.o_proj.weight",), ("hidden", "heads"), "linear"),
    Weight("layers.{i}.attn.o.bias", (_LAYER + "self_attn.o_proj.bias",), ("hidden",), "vector", when="output_bias"),
    Weight("layers.{i}.mlp_norm.weight", (_LAYER + "post_attention_layernorm.weight",), ("hidden",), "vector"),
    Weight("layers.{i}.mlp.gate.weight", (_LAYER + "mlp.gate_proj.weight",), ("ffn", "hidden"), "linear"),
    Weight("layers.{i}.mlp.gate.bias", (_LAYER + "mlp.gate_proj.bias",), ("ffn",), "vector", when="mlp_bias"),
    Weight("layers.{i}.mlp.up.weight", (_LAYER + "mlp.up_proj.weight",), ("ffn", "hidden"), "linear"),
    Weight("layers.{i}.mlp.up.bias", (_LAYER + "mlp.up_proj.bias",), ("ffn",), "vector", when="mlp_bias"),
    Weight("layers.{i}.mlp.down.weight", (_LAYER + "mlp.down_proj.weight",), ("hidden", "ffn"), "linear"),
    Weight("layers.{i}.mlp.down.bias", (_LAYER + "mlp.down_proj.bias",), ("hidden",), "vector", when="mlp_bias"),
    Weight("norm.weight", ("model.norm.weight",), ("hidden",), "vector"),
    Weight("lm_head.weight", ("lm_head.weight",), ("vocab", "hidden"), "linear", when="untied"),
)

IGNORED = r"(.*\.)?rotary_emb\.inv_freq"  # old checkpoints store these tables, which follow from the config


def weights(config: LlamaConfig) -> dict[str, WeightSpec]:
    """Every parameter of the exported functions and where it stands in a checkpoint."""
    return expand(WEIGHTS, layers=config.num_layers, sizes=config.sizes, flags=config)


class Linear(nn.Module):
    """A linear at `site`, which is also its path in the module and thus the beginning of its parameters' names."""

    def __init__(
        self, site: str, axes: tuple[str, str], config: LlamaConfig, dtypes: Dtypes, *, bias: bool = False
    ) -> None:
        out_features, in_features = (config.sizes[axis] for axis in axes)
        self.site, self.axes = site, axes
        self.weight = nn.Parameter((out_features, in_features), dtypes.get(f"{site}.weight", "float32"))
        self.bias = nn.Parameter((out_features,), "float32") if bias else None

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return dialect.linear(x, self.weight, self.bias, site=self.site, axes=self.axes)


class RMSNorm(nn.Module):
    """Root mean square normalisation (Zhang and Sennrich 2019)."""

    def __init__(self, config: LlamaConfig) -> None:
        self.eps = config.norm_eps
        self.weight = nn.Parameter((config.hidden_size,), "float32")

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return dialect.rms_norm(x, self.weight, eps=self.eps)


class Attention(nn.Module):
    """Rotary attention of one layer over the paged cache; heads may share a key head (GQA, Ainslie et al. 2023)."""

    def __init__(self, layer: int, config: LlamaConfig, dtypes: Dtypes, layout: PlanLayout) -> None:
        site = f"layers.{layer}.attn."
        self.layer, self.config, self.layout = layer, config, layout
        self.q = Linear(site + "q", ("heads", "hidden"), config, dtypes, bias=config.qkv_bias)
        self.k = Linear(site + "k", ("kv_heads", "hidden"), config, dtypes, bias=config.qkv_bias)
        self.v = Linear(site + "v", ("kv_heads", "hidden"), config, dtypes, bias=config.qkv_bias)
        self.o = Linear(site + "o", ("hidden", "heads"), config, dtypes, bias=config.output_bias)

    def forward(
        self, x: nn.Tensor, table: nn.Tensor, positions: nn.Tensor, plan: nn.Tensor, cache: nn.Tensor
    ) -> tuple[nn.Tensor, nn.Tensor]:
        """The layer's attention output and the cache with this step's keys and values."""
        heads, kv_heads, head_dim = self.config.num_heads, self.config.num_kv_heads, self.config.head_dim
        q, k, v = self.q(x), self.k(x), self.v(x)
        q = dialect.rope(q, table, heads=heads, head_dim=head_dim)
        k = dialect.rope(k, table, heads=kv_heads, head_dim=head_dim)
        place: dict[str, Any] = {"layer": self.layer, "kv_heads": kv_heads, "head_dim": head_dim, "layout": self.layout}
        cache = dialect.kv_append(k, v, plan, cache, **place)
        window, scale = self.config.windows[self.layer], head_dim**-0.5
        out = dialect.attention(q, positions, plan, cache, heads=heads, scale=scale, window=window, **place)
        return self.o(out), cache


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x)) (SwiGLU, Shazeer 2020)."""

    def __init__(self, layer: int, config: LlamaConfig, dtypes: Dtypes) -> None:
        site = f"layers.{layer}.mlp."
        self.gate = Linear(site + "gate", ("ffn", "hidden"), config, dtypes, bias=config.mlp_bias)
        self.up = Linear(site + "up", ("ffn", "hidden"), config, dtypes, bias=config.mlp_bias)
        self.down = Linear(site + "down", ("hidden", "ffn"), config, dtypes, bias=config.mlp_bias)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return self.down(dialect.silu_mul(self.gate(x), self.up(x)))


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, layer: int, config: LlamaConfig, dtypes: Dtypes, layout: PlanLayout) -> None:
        self.attn_norm = RMSNorm(config)
        self.attn = Attention(layer, config, dtypes, layout)
        self.mlp_norm = RMSNorm(config)
        self.mlp = MLP(layer, config, dtypes)

    def forward(
        self, x: nn.Tensor, table: nn.Tensor, positions: nn.Tensor, plan: nn.Tensor, cache: nn.Tensor
    ) -> tuple[nn.Tensor, nn.Tensor]:
        out, cache = self.attn(self.attn_norm(x), table, positions, plan, cache)
        x = dialect.add(out, x)
        return dialect.add(self.mlp(self.mlp_norm(x)), x), cache


class Table(nn.Module):
    """The token embedding [V, H]; a tied head multiplies with it."""

    def __init__(self, config: LlamaConfig, dtypes: Dtypes) -> None:
        self.weight = nn.Parameter((config.vocab_size, config.hidden_size), dtypes.get("embed.weight", "float32"))


class Embed(nn.Module):
    """tokens int32 [n] -> x float32 [n, H]."""

    def __init__(self, config: LlamaConfig, dtypes: Dtypes) -> None:
        self.embed = Table(config, dtypes)

    def forward(self, tokens: nn.Tensor) -> nn.Tensor:
        return dialect.embedding(tokens, self.embed.weight, site="embed")


class Body(nn.Module):
    """x float32 [n, H] at positions int32 [n] -> hidden float32 [n, H], the final norm applied."""

    def __init__(self, config: LlamaConfig, dtypes: Dtypes, layout: PlanLayout) -> None:
        self.rope = config.rope
        self.layers = nn.ModuleList([Layer(i, config, dtypes, layout) for i in range(config.num_layers)])
        self.norm = RMSNorm(config)

    def forward(self, x: nn.Tensor, positions: nn.Tensor, plan: nn.Tensor, cache: nn.Tensor) -> nn.Tensor:
        table = dialect.rope_table(positions, self.rope.inv_freq(), self.rope.scale())
        for layer in self.layers:
            x, cache = layer(x, table, positions, plan, cache)
        return self.norm(x)


class Head(nn.Module):
    """Chosen rows int32 [r] of hidden float32 [n, H] -> logits float32 [r, V]."""

    def __init__(self, config: LlamaConfig, dtypes: Dtypes) -> None:
        if config.tie_embeddings:
            self.embed = Table(config, dtypes)
        else:
            self.lm_head = Linear("lm_head", ("vocab", "hidden"), config, dtypes)
        self.tied = config.tie_embeddings

    def forward(self, hidden: nn.Tensor, rows: nn.Tensor) -> nn.Tensor:
        x = dialect.gather_rows(hidden, rows)
        if self.tied:
            return dialect.linear(x, self.embed.weight, site="lm_head", axes=("vocab", "hidden"))
        return self.lm_head(x)


def export(config: LlamaConfig, dtypes: Dtypes, kv_dtype: str, layout: PlanLayout) -> tvm.IRModule:
    """The functions `embed`, `body` and `head` as dialect calls, with symbolic n, r, p and num_pages.

    Each takes its inputs, then the parameters it uses, named as in `weights`; the attribute `num_input` says where
    these begin. The cache is [num_pages, layers, kv heads, record]; `runtime.plans.cache` says what stands in a record.
    """
    _check_dtypes(config, dtypes, kv_dtype)
    stored = STORAGE[kv_dtype]
    size = cache_record(kv_dtype, config.head_dim, config.head_dim).size
    record = [config.num_layers, config.num_kv_heads, size]
    hidden = nn.spec.Tensor(["n", config.hidden_size], "float32")

    def ids(size: str) -> nn.spec.Tensor:
        return nn.spec.Tensor([size], "int32")

    cache = nn.spec.Tensor(["num_pages", *record], stored)
    functions: dict[str, tuple[nn.Module, dict[str, Any]]] = {
        "embed": (Embed(config, dtypes), {"tokens": ids("n")}),
        "body": (Body(config, dtypes, layout), {"x": hidden, "positions": ids("n"), "plan": ids("p"), "cache": cache}),
        "head": (Head(config, dtypes), {"hidden": hidden, "rows": ids("r")}),
    }
    modes = {"param_mode": "plain", "effect_mode": "none"}
    exported = {}
    for name, (module, inputs) in functions.items():
        mod, _ = module.export_tvm({"forward": {**inputs, "$": modes}})
        exported[name] = mod["forward"].with_attr("global_symbol", name)
    return tvm.IRModule(exported)


def _check_dtypes(config: LlamaConfig, dtypes: Dtypes, kv_dtype: str) -> None:
    """A wrong name or type among `dtypes` would silently fall back to float32."""
    stored = [param for param, spec in weights(config).items() if spec.kind != "vector"]
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


for _name, _model_type, _config in (
    ("LlamaForCausalLM", "llama", llama_config),
    ("MistralForCausalLM", "mistral", mistral_config),
    ("Qwen2ForCausalLM", "qwen2", qwen2_config),
):
    register(Architecture(_name, _model_type, _config, weights, export, IGNORED))
