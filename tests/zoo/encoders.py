"""The encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .case import SIZES, Case, rope

TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
SPECIAL = {"ModernBertConfig": TOKENS}


def _made(kind: str, hidden: int, heads: int, **options: Any) -> Callable[[], Any]:
    def config() -> Any:
        import transformers

        sizes = {"hidden_size": hidden, "num_attention_heads": heads}
        return getattr(transformers, kind)(**(SIZES | SPECIAL.get(kind, {}) | sizes | options))

    return config


CASES = (
    Case("BertModel", "bert", "learned positions, norms after the sums", _made("BertConfig", 96, 6)),
    Case("BertModel", "minilm", "heads of 32, a wide MLP", _made("BertConfig", 96, 3, intermediate_size=384)),
    Case(
        "BertModel",
        "bert-odd",
        "heads of 18, gelu by tanh, one type, a large epsilon",
        _made("BertConfig", 90, 5, hidden_act="gelu_new", type_vocab_size=1, layer_norm_eps=1e-3),
    ),
    Case("BertForMaskedLM", "bert-mlm", "with the head that it was trained with", _made("BertConfig", 64, 4)),
    Case("RobertaModel", "roberta", "positions behind the padding token", _made("RobertaConfig", 72, 3)),
    Case(
        "RobertaModel",
        "roberta-pad-9",
        "another padding token, relu",
        _made("RobertaConfig", 96, 6, pad_token_id=9, hidden_act="relu", type_vocab_size=1),
    ),
    Case("RobertaModel", "roberta-1", "one layer of one head", _made("RobertaConfig", 48, 1, num_hidden_layers=1)),
    Case("XLMRobertaModel", "xlm-r", "as RoBERTa", _made("XLMRobertaConfig", 80, 5)),
    Case(
        "XLMRobertaModel",
        "xlm-r-wide",
        "heads of 80",
        _made("XLMRobertaConfig", 160, 2, intermediate_size=77, type_vocab_size=1),
    ),
    Case(
        "XLMRobertaForMaskedLM",
        "xlm-r-mlm",
        "with the head that it was trained with",
        _made("XLMRobertaConfig", 64, 4),
    ),
    Case(
        "ModernBertModel",
        "modernbert",
        "windows of 24, two rotary bases, gated MLP",
        _made("ModernBertConfig", 96, 4, num_hidden_layers=4, local_attention=24),
    ),
    Case(
        "ModernBertModel",
        "modernbert-biases",
        "all biases, windows throughout, scaled rotation",
        _made(
            "ModernBertConfig",
            72,
            3,
            norm_bias=True,
            attention_bias=True,
            mlp_bias=True,
            local_attention=31,
            layer_types=["sliding_attention"] * 2,
            rope_parameters={
                "full_attention": rope(),
                "sliding_attention": rope(rope_type="linear", factor=2.0, rope_theta=500.0),
            },
        ),
    ),
    Case(
        "ModernBertForMaskedLM",
        "modernbert-mlm",
        "with the head that it was trained with, full layers only",
        _made("ModernBertConfig", 128, 2, layer_types=["full_attention"] * 2),
    ),
)

MODELS = {
    "BertModel": "BERT, MiniLM, BGE, E5, GTE, ...",
    "BertForMaskedLM": "BERT as it was trained",
    "RobertaModel": "RoBERTa, and sentence models made of it",
    "XLMRobertaModel": "XLM-R, multilingual E5, BGE-M3",
    "XLMRobertaForMaskedLM": "XLM-R as it was trained",
    "ModernBertModel": "ModernBERT, its embedding models",
    "ModernBertForMaskedLM": "ModernBERT as it was trained",
}
"""Models that people know, by architecture."""


def render(errors: Mapping[str, float]) -> str:
    """The table of docs/models.md from the largest error of each case."""
    lines = ["| architecture | models | tested with | largest error |", "|---|---|---|---|"]
    for architecture, models in MODELS.items():
        own = [case for case in CASES if case.architecture == architecture]
        shows = "; ".join(case.shows for case in own)
        lines.append(f"| `{architecture}` | {models} | {shows} | {max(errors[case.name] for case in own):.0e} |")
    return "\n".join(lines) + "\n"
