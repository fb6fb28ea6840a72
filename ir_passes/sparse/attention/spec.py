"""What an attention layer computes: its shapes and its variants."""

from __future__ import annotations

import dataclasses
import math

from ....runtime.plans import PlanLayout
from ....runtime.plans.cache import cache_record
from ....runtime.plans.layout import heads_per_kv_head


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """Static side of one attention over the paged cache.

    A query at position p sees the keys at positions in (p - window, p + lookahead] up to its plan's limit (window 0: from the
    first; lookahead -1: to the limit, which is p itself in causal plans and the last position in bidirectional ones), and the
    first `sinks` keys in any case (StreamingLLM). Scores are scaled, then capped: softcap * tanh(score / softcap) if > 0
    (Gemma 2). `sink_logits` adds a learned logit per head to the denominator (gpt-oss). With `shared_values` a value is the
    first value_dim dimensions of its key, and pages hold keys only (latent attention). `body` "expressions" lowers the tile
    from its expressions; "kernel" takes the micro-kernel of the storage where there is one.

    Plans for layers with sinks keep the first segment (`Division.keep`). In a tree of drafts (`layout.tree_words`) slots run ahead
    of positions: a window must be as wide as the largest tree, and there is no lookahead. ValueError for what has no kernel.
    """

    layers: int
    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    kv_dtype: str
    scale: float
    layout: PlanLayout
    window: int = 0
    lookahead: int = -1
    sinks: int = 0
    softcap: float = 0.0
    sink_logits: bool = False
    shared_values: bool = False
    body: str = "kernel"

    def __post_init__(self) -> None:
        heads_per_kv_head(self.heads, self.kv_heads)
        for name in ("layers", "key_dim", "value_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        cache_record(self.kv_dtype, self.key_dim, self.value_dim)
        if self.body not in ("kernel", "expressions"):
            raise ValueError(f"unknown body={self.body!r}; choose kernel or expressions")
        if self.kv_dtype == "int8" and (self.shared_values or self.body == "expressions"):
            raise ValueError("int8 pages are read by their micro-kernel only, with keys and values apart")
        if self.shared_values and self.value_dim > self.key_dim:
            raise ValueError(f"values of {self.value_dim} dimensions cannot be a view of keys of {self.key_dim}")
        for name in ("scale", "softcap"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be finite")
        for name in ("window", "sinks", "softcap"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 (none) or more")
        if self.lookahead < -1:
            raise ValueError(f"lookahead is {self.lookahead}; it must be -1 (to the plan's limit) or more")
        if self.sinks and not self.window:
            raise ValueError(
                f"sinks={self.sinks} without a window: every key is seen anyway; give a window or no sinks"
            )
        nodes = 32 * self.layout.tree_words
        if nodes and (self.lookahead >= 0 or 0 < self.window < nodes):
            raise ValueError(
                f"trees of up to {nodes} rows with window={self.window} and lookahead={self.lookahead}: give a window of"
                f" {nodes} at least (or 0), no lookahead (-1), or smaller trees"
            )

    @property
    def record(self) -> int:
        """Elements of one page of one layer and kv head."""
        return cache_record(self.kv_dtype, self.key_dim, 0 if self.shared_values else self.value_dim).size

    @property
    def sharing(self) -> int:
        """Query heads of one kv head."""
        return heads_per_kv_head(self.heads, self.kv_heads)
