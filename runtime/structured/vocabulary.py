"""A model's tokenizer as llguidance reads it: tokenizer.json, with one token more that stands for the end of the text.

Which tokens end a text is a request's own affair, so the grammar gets an end of its own, and the matcher translates. llguidance
takes ids to be dense; ids that a tokenizer leaves out get names that no text has.
"""

from __future__ import annotations

import json
from typing import Any

from ..tokenizer import Tokenizer

_FILLER = "<|heddle:{}|>"


def tokenizer_json(tokenizer: Tokenizer) -> tuple[str, int]:
    """The tokenizer as JSON, and the id of its additional end token: one more than the largest."""
    described: dict[str, Any] = json.loads(tokenizer.to_json())
    end = tokenizer.vocab_size
    missing = sorted(set(range(end + 1)) - set(tokenizer.vocabulary.values()))
    vocab = described["model"]["vocab"]
    for token in missing:
        name = _FILLER.format(token)
        if isinstance(vocab, dict):
            vocab[name] = token
        else:  # Unigram: a list of pieces with their scores, where ids are places
            vocab.append([name, -1e9])
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        described["added_tokens"].append({"id": token, "content": name, "special": True, **flags})
    return json.dumps(described), end
