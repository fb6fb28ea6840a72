"""Tensor names of transformers by those of GGUF, family by family (gguf-py's tensor_mapping.py is the source)."""

from __future__ import annotations

from .family import Names

LAYER = "model.layers.{i}."
LLAMA: Names = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk.{i}.attn_norm": LAYER + "input_layernorm",
    "blk.{i}.attn_q": LAYER + "self_attn.q_proj",
    "blk.{i}.attn_k": LAYER + "self_attn.k_proj",
    "blk.{i}.attn_v": LAYER + "self_attn.v_proj",
    "blk.{i}.attn_output": LAYER + "self_attn.o_proj",
    "blk.{i}.ffn_norm": LAYER + "post_attention_layernorm",
    "blk.{i}.ffn_gate": LAYER + "mlp.gate_proj",
    "blk.{i}.ffn_up": LAYER + "mlp.up_proj",
    "blk.{i}.ffn_down": LAYER + "mlp.down_proj",
}
QK_NORMS: Names = {"blk.{i}.attn_q_norm": LAYER + "self_attn.q_norm", "blk.{i}.attn_k_norm": LAYER + "self_attn.k_norm"}
POST_NORMS: Names = {
    "blk.{i}.post_attention_norm": LAYER + "post_attention_layernorm",
    "blk.{i}.post_ffw_norm": LAYER + "post_feedforward_layernorm",
}
GEMMA2: Names = LLAMA | POST_NORMS | {"blk.{i}.ffn_norm": LAYER + "pre_feedforward_layernorm"}
FUSED_MLP: Names = {"blk.{i}.ffn_up": LAYER + "mlp.gate_up_proj"}
SPLIT_QKV: Names = {"blk.{i}.attn_qkv": tuple(LAYER + f"self_attn.{x}_proj" for x in "qkv")}
GPT2: Names = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "blk.{i}.attn_norm": "transformer.h.{i}.ln_1",
    "blk.{i}.attn_qkv": "transformer.h.{i}.attn.c_attn",
    "blk.{i}.attn_output": "transformer.h.{i}.attn.c_proj",
    "blk.{i}.ffn_norm": "transformer.h.{i}.ln_2",
    "blk.{i}.ffn_up": "transformer.h.{i}.mlp.c_fc",
    "blk.{i}.ffn_down": "transformer.h.{i}.mlp.c_proj",
}
NEOX: Names = {
    "token_embd": "gpt_neox.embed_in",
    "output_norm": "gpt_neox.final_layer_norm",
    "output": "embed_out",
    "blk.{i}.attn_norm": "gpt_neox.layers.{i}.input_layernorm",
    "blk.{i}.attn_qkv": "gpt_neox.layers.{i}.attention.query_key_value",
    "blk.{i}.attn_output": "gpt_neox.layers.{i}.attention.dense",
    "blk.{i}.ffn_norm": "gpt_neox.layers.{i}.post_attention_layernorm",
    "blk.{i}.ffn_up": "gpt_neox.layers.{i}.mlp.dense_h_to_4h",
    "blk.{i}.ffn_down": "gpt_neox.layers.{i}.mlp.dense_4h_to_h",
}
_E = "encoder.layer.{i}."
BERT: Names = {
    "token_embd": "embeddings.word_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
    "blk.{i}.attn_q": _E + "attention.self.query",
    "blk.{i}.attn_k": _E + "attention.self.key",
    "blk.{i}.attn_v": _E + "attention.self.value",
    "blk.{i}.attn_qkv": tuple(_E + f"attention.self.{x}" for x in ("query", "key", "value")),
    "blk.{i}.attn_output": _E + "attention.output.dense",
    "blk.{i}.attn_output_norm": _E + "attention.output.LayerNorm",
    "blk.{i}.ffn_up": _E + "intermediate.dense",
    "blk.{i}.ffn_down": _E + "output.dense",
    "blk.{i}.layer_output_norm": _E + "output.LayerNorm",
}
_M = "layers.{i}."
MODERN_BERT: Names = {
    "token_embd": "embeddings.tok_embeddings",
    "token_embd_norm": "embeddings.norm",
    "output_norm": "final_norm",
    "blk.{i}.attn_norm": _M + "attn_norm",
    "blk.{i}.attn_qkv": _M + "attn.Wqkv",
    "blk.{i}.attn_output": _M + "attn.Wo",
    "blk.{i}.ffn_norm": _M + "mlp_norm",
    "blk.{i}.ffn_up": _M + "mlp.Wi",
    "blk.{i}.ffn_down": _M + "mlp.Wo",
}
