"""WordPiece: BERT's vocabularies, where a token within a word begins with `##`."""

from __future__ import annotations

from collections.abc import Mapping

from .rules import Part, Rules, added_token, broken, frame

SPECIALS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def wordpiece_rules(
    vocab: Mapping[str, int],
    specials: Mapping[str, str] = SPECIALS,
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    chinese: bool = True,
) -> Rules:
    """A BERT tokenizer of ids by token. `strip_accents` None does as `lowercase`; `chinese`: each character is a word.

    ModelError without a token for unknown words.
    """
    specials = {**SPECIALS, **specials}
    cls, sep, unknown = (specials[f"{name}_token"] for name in ("cls", "sep", "unk"))
    if unknown not in vocab:
        raise broken(f"the vocabulary has no {unknown!r}", "words that it does not know have no token then")
    normalizer: Part = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": chinese,
        "strip_accents": strip_accents,
        "lowercase": lowercase,
    }
    model = {
        "type": "WordPiece",
        "unk_token": unknown,
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": dict(vocab),
    }
    known = {token: vocab[token] for token in specials.values() if token in vocab}
    ends = [[(token, known[token])] if token in known else [] for token in (cls, sep)]
    return Rules(
        model,
        normalizer,
        {"type": "BertPreTokenizer"},
        frame(*ends),
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        [added_token(number, token, special=True) for token, number in sorted(known.items(), key=lambda x: x[1])],
    )
