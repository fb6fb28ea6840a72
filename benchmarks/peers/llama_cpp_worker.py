"""llama-cpp-python as a worker of side_by_side.py. Variants of Q4_0: "head8" (llama.cpp's default) and "head4" (`pure`)."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import protocol

SOURCE, MODEL = "float16.gguf", "model.gguf"
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TABLES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(checkpoint: Path, output: Path) -> None:
    """The checkpoint as GGUF in float16 (vectors in float32), without a tokenizer. Rows of q and k are not reordered for
    the other form of rotary embeddings: that changes which random weights they are, and no shape."""
    import gguf
    import numpy as np

    config = json.loads((checkpoint / "config.json").read_text())
    heads, kind = config["num_attention_heads"], config["model_type"]
    writer = gguf.GGUFWriter(output, kind)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config.get("head_dim", config["hidden_size"] // heads))
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    file = checkpoint / "model.safetensors"
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    data = np.memmap(file, np.uint8, "r", offset=8 + length)
    for name, entry in header.items():
        if name != "__metadata__":
            first, end = entry["data_offsets"]
            array = data[first:end].view(np.float16).reshape(entry["shape"])
            writer.add_tensor(_gguf_name(name), array if array.ndim == 2 else array.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in TABLES:
        return f"{TABLES[stem]}.{kind}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.{kind}"


def prepare(checkpoint: Path, folder: Path, variant: str) -> dict[str, Any]:
    """Write GGUF and let llama.cpp quantize it."""
    import llama_cpp

    write_gguf(checkpoint, folder / SOURCE)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    params.pure = variant == "head4"
    files = [str(folder / name).encode() for name in (SOURCE, MODEL)]
    if llama_cpp.llama_model_quantize(*files, ctypes.byref(params)):
        raise RuntimeError("llama_model_quantize failed; its messages are above")
    (folder / SOURCE).unlink()
    size = (folder / MODEL).stat().st_size
    return {"stored": size, "streamed": size}  # a tied table is one tensor


class LlamaCpp:
    """One context that up to 8 sequences share; keys and values are float16."""

    def __init__(self, folder: Path, variant: str, threads: int, context: int) -> None:
        import llama_cpp

        self.lib = llama_cpp
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(folder / MODEL).encode(), model_params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {folder / MODEL}; its messages are above")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = context, 8, True
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)
        self.capacity = params.n_batch

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """Run (token, position, sequence, whether its logits are wanted); the likeliest token of each that is wanted."""
        import numpy as np

        found: list[int] = []
        for start in range(0, len(rows), self.capacity):
            part = rows[start : start + self.capacity]
            self.batch.n_tokens = len(part)
            for i, (token, position, sequence, wanted) in enumerate(part):
                self.batch.token[i], self.batch.pos[i] = token, position
                self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, sequence
                self.batch.logits[i] = wanted
            if code := self.lib.llama_decode(self.context, self.batch):
                raise RuntimeError(f"llama_decode gave {code}")
            for i, (*_, wanted) in enumerate(part):
                if wanted:
                    logits = self.lib.llama_get_logits_ith(self.context, i)
                    found.append(int(np.ctypeslib.as_array(logits, (self.vocab,)).argmax()))
        return found

    def generate(self, prompts: protocol.Prompts, count: int) -> protocol.Timing:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        last = len(prompts[0]) - 1
        rows = [(t, i, s, i == last) for s, prompt in enumerate(prompts) for i, t in enumerate(prompt)]

        def step() -> None:
            nonlocal rows, last
            last += 1
            rows = [(token, last, s, True) for s, token in enumerate(self._decode(rows))]

        return protocol.timed(step, count)


if __name__ == "__main__":
    protocol.main(prepare, LlamaCpp)
