"""Tokenizers for tests: the example model's (byte-level BPE), and one built here like Llama 2's (byte fallback)."""

from __future__ import annotations

from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, processors

from heddle.runtime.tokenizer import Tokenizer

TINYDOC = Path(__file__).parent.parent / "examples" / "tinydoc"


def byte_level() -> Tokenizer:
    """tinydoc's: 4096 byte-level BPE tokens, the first three special."""
    return Tokenizer.load(TINYDOC)


def byte_fallback() -> Tokenizer:
    """Tokens 0 to 2 special, 3 to 258 bytes, then pieces; decoding strips one space at the start."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for piece in ["▁", "▁▁", "a", "▁a", "▁the", "é", "你", "▁你", "\ufffd", "x\ufffd", "b", "."]:
        vocab[piece] = len(vocab)
    backend = tokenizers.Tokenizer(models.BPE(vocab, [("▁", "a")], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", pair="$A $B", special_tokens=[("<s>", 1)])
    return Tokenizer(backend, {"bos_token": "<s>", "eos_token": {"content": "</s>"}})
