"""Configs and checkpoints of encoders: as published models have them, and with everything that is wrong listed at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from heddle.models import RandomCheckpoint, architecture, match_weights
from heddle.models.encoder_config import EncoderConfig
from heddle.models.problems import ModelError
from heddle.models.weights import Parameters

BERT = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "transformers_version": "4.6.0.dev0",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}
MULTILINGUAL = {
    "directionality": "bidi",
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
}
XLM_R = BERT | {
    "architectures": ["XLMRobertaForMaskedLM"],
    "bos_token_id": 0,
    "eos_token_id": 2,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 514,
    "model_type": "xlm-roberta",
    "output_past": True,
    "pad_token_id": 1,
    "type_vocab_size": 1,
    "vocab_size": 250002,
}
MODERNBERT = {
    "architectures": ["ModernBertForMaskedLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 50281,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "classifier_dropout": 0.0,
    "classifier_pooling": "mean",
    "cls_token_id": 50281,
    "decoder_bias": True,
    "deterministic_flash_attn": False,
    "embedding_dropout": 0.0,
    "eos_token_id": 50282,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "gradient_checkpointing": False,
    "hidden_activation": "gelu",
    "hidden_size": 768,
    "initializer_cutoff_factor": 2.0,
    "initializer_range": 0.02,
    "intermediate_size": 1152,
    "layer_norm_eps": 1e-05,
    "local_attention": 128,
    "local_rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "model_type": "modernbert",
    "norm_bias": False,
    "norm_eps": 1e-05,
    "num_attention_heads": 12,
    "num_hidden_layers": 22,
    "pad_token_id": 50283,
    "position_embedding_type": "absolute",
    "reference_compile": True,
    "repad_logits_with_grad": False,
    "sep_token_id": 50282,
    "sparse_pred_ignore_index": -100,
    "sparse_prediction": False,
    "torch_dtype": "float32",
    "transformers_version": "4.47.0.dev0",
    "vocab_size": 50368,
}
PUBLISHED = {"bert": BERT, "bert-multilingual": BERT | MULTILINGUAL, "xlm-r": XLM_R, "modernbert": MODERNBERT}
SMALL = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 6, "vocab_size": 11}


def read(raw: dict[str, Any]) -> EncoderConfig:
    found = architecture(raw).config(raw)
    assert isinstance(found, EncoderConfig)
    return found


def problems(raw: dict[str, Any]) -> str:
    with pytest.raises(ModelError) as caught:
        read(raw)
    return str(caught.value)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_read(name: str) -> None:
    raw = PUBLISHED[name]
    config = read(raw)
    assert (config.hidden_size, config.num_heads, config.head_dim, config.activation) == (768, 12, 64, "gelu")
    assert config.vocab_size == raw["vocab_size"]
    assert architecture(raw).kind == "encoder"


def test_positions_of_roberta_begin_behind_the_padding_token() -> None:
    config = read(XLM_R)
    assert (config.context_length, config.position_rows, config.first_position) == (512, 512, 2)
    assert read(BERT).first_position == 0
    assert "they begin behind pad_token_id" in problems(XLM_R | {"pad_token_id": 514})


def test_windows_and_bases_of_modernbert() -> None:
    config = read(MODERNBERT)
    assert config.windows[:4] == (0, 65, 65, 0)
    assert config.lookaheads[:4] == (-1, 64, 64, -1)
    assert [rope.theta for rope in config.ropes[:3] if rope] == [160000.0, 10000.0, 10000.0]
    newer = {k: v for k, v in MODERNBERT.items() if not k.endswith(("_theta", "_n_layers"))}
    newer |= {"layer_types": (["full_attention"] + ["sliding_attention"] * 2) * 7 + ["full_attention"]}
    newer |= {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        }
    }
    assert read(newer) == config


def test_rope_scaling_of_modernbert_is_of_all_layers() -> None:
    config = read(MODERNBERT | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}})
    assert {(rope.type, rope.factor) for rope in config.ropes if rope} == {("linear", 2.0)}


def test_all_problems_are_listed_at_once() -> None:
    wrong = {
        "hidden_act": "gelu_10",
        "is_decoder": True,
        "position_embedding_type": "relative_key",
        "type_vocab_size": 0,
        "layer_norm_eps": "small",
        "num_attention_heads": 5,
        "relative_bias": 3,
    }
    text = problems(BERT | wrong)
    assert "768 hidden features do not split into 5 heads" in text
    for part in ("gelu_10", "is_decoder", "relative_key", "type_vocab_size", "layer_norm_eps", "relative_bias"):
        assert part in text
    text = problems(MODERNBERT | {"local_attention": 1, "norm_bias": 3, "global_rope_theta": -1, "layer_types": ["x"]})
    for part in ("local_attention", "norm_bias", "rope_theta", "layer_types"):
        assert part in text


@pytest.mark.parametrize("prefix", ["bert.", ""])
@pytest.mark.parametrize("old", [False, True])
def test_names_of_older_and_bare_checkpoints(prefix: str, old: bool) -> None:
    """TensorFlow's spelling of norms, with and without the name of the encoder, and heads that are not needed."""
    family = architecture(BERT)
    config = family.config(BERT | SMALL)
    specs = family.weights(config)
    checkpoint = RandomCheckpoint(specs, 0, "float32")

    def renamed(name: str) -> str:
        name = prefix + name.removeprefix("bert.")
        pairs = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")) if old else ()
        for new, ancient in pairs:
            name = name.replace(new, ancient)
        return name

    checkpoint.tensors = {renamed(name): info for name, info in checkpoint.tensors.items()}
    table = checkpoint.tensors[f"{prefix}embeddings.word_embeddings.weight"]
    extra = ("embeddings.position_ids", "pooler.dense.weight", "cls.predictions.bias")
    checkpoint.tensors |= {(prefix if i < 2 else "") + name: table for i, name in enumerate(extra)}
    found = match_weights(specs, checkpoint, ignored=family.ignored)
    assert set(found.names) == set(specs)
    checkpoint.tensors["encoder.layer.0.attention.self.distance_embedding.weight"] = table
    with pytest.raises(ModelError, match="extra weight"):
        match_weights(specs, checkpoint, ignored=family.ignored)


def test_parts_of_stored_tensors() -> None:
    """The rows of RoBERTa's positions behind the padding token, the first type, and ModernBERT's fused projections."""
    for raw in (XLM_R | SMALL | {"max_position_embeddings": 9, "type_vocab_size": 3}, MODERNBERT | SMALL):
        family = architecture(raw)
        specs = family.weights(family.config(raw))
        checkpoint = RandomCheckpoint(specs, 0, "float32")
        names = match_weights(specs, checkpoint, ignored=family.ignored).names
        parameters = Parameters(specs, names, checkpoint)
        if "types.weight" in specs:
            table = checkpoint.read(names["positions.weight"])
            assert table.shape == (9, 8)
            np.testing.assert_array_equal(parameters.read("positions.weight"), table[2:])
            np.testing.assert_array_equal(parameters.read("types.weight"), checkpoint.read(names["types.weight"])[:1])
        else:
            assert "layers.0.attn_norm.weight" not in specs
            fused, wide = (checkpoint.read(f"model.layers.1.{name}.weight") for name in ("attn.Wqkv", "mlp.Wi"))
            np.testing.assert_array_equal(parameters.read("layers.1.attn.k.weight"), fused[8:16])
            np.testing.assert_array_equal(parameters.read("layers.1.mlp.gate.weight"), wide[:6])
            np.testing.assert_array_equal(parameters.read("layers.1.mlp.up.weight"), wide[6:])
