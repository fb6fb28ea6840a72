"""Tokenizers without a tokenizer.json, and the tokens that stand beside one: as tiktoken and transformers have them."""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tokenizers
import transformers

from heddle.models import ModelError
from heddle.models.source import open_source
from heddle.models.tokenization import directory_tokenizer
from heddle.models.tokenization.byte_level import ALPHABET, check_merges, read_merges, read_vocab_json
from heddle.models.tokenization.tiktoken import ENCODINGS, encoding_of, read_ranks, tiktoken_rules
from heddle.runtime.tokenizer import Tokenizer

from .tokenization_tools import sentencepiece_model, texts, tinydoc, words, write

LLAMA = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
MORE = ["<x>", "  <x> b", "a <m> b", "a<s>b</s>", "<y>  c", "a  <|im_end|>  b", "x<n>y", "x  <mask> y"]


def token(content: str, **flags: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": content, **plain, "special": True, **flags}


def ranks() -> dict[bytes, int]:
    """tinydoc's vocabulary in tiktoken's form: bytes and what is merged of them, in this order."""
    letters = {letter: byte for byte, letter in ALPHABET.items()}
    vocab = sorted(tinydoc()["model"]["vocab"].items(), key=lambda item: item[1])[3:]
    return {bytes(letters[letter] for letter in text): number - 3 for text, number in vocab}


def ranks_file() -> bytes:
    return b"".join(base64.b64encode(text) + b" %d\n" % rank for text, rank in ranks().items())


def merges() -> str:
    return "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in tinydoc()["model"]["merges"])


def byte_level_files(**config: Any) -> dict[str, Any]:
    return {"vocab.json": tinydoc()["model"]["vocab"], "merges.txt": merges(), "tokenizer_config.json": config}


def loaded(folder: Path, files: dict[str, Any]) -> Tokenizer:
    """What becomes of a directory with these files."""
    write(folder, files)
    new = directory_tokenizer(folder)
    return Tokenizer.load(write(folder.with_name(folder.name + "-made"), files | new))


def compare(folder: Path, files: dict[str, Any], model_type: str, count: int) -> Tokenizer:
    """Ids and texts as transformers' AutoTokenizer has them."""
    mine = loaded(folder, {"config.json": {"model_type": model_type}, **files})
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    hard = (
        text[: len(text) // 2] + more + text[len(text) // 2 :]
        for text, more in zip(texts(count, 3), itertools.cycle(MORE))
    )
    for text, frame in itertools.product([*texts(count, 4), *hard, *MORE, ""], (True, False)):
        expected = theirs.encode(text, add_special_tokens=frame)
        assert mine.encode(text, add_special_tokens=frame) == expected, text
        for skip in (True, False):
            again = theirs.decode(expected, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert mine.decode(expected, skip_special_tokens=skip) == again, text
    assert (mine.bos_token, mine.eos_token) == (theirs.bos_token, theirs.eos_token)
    assert mine.vocab_size == len(theirs)
    return mine


ADDED = {
    "600": token("<x>", special=False),
    "601": token("<m>", lstrip=True, special=False),
    "602": token("<y>", rstrip=True, normalized=True, special=False),
}
FIRST = {"0": token("<unk>"), "1": token("<s>"), "2": token("</s>")}
DIRECTORIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tokenizer.model": "llama", "tokenizer_config.json": {**LLAMA, "legacy": False}}),
    "llama-added": (
        "llama",
        {
            "tokenizer.model": "llama",
            "tokenizer_config.json": {**LLAMA, "legacy": False, "added_tokens_decoder": {**FIRST, **ADDED}},
        },
    ),
    "xlm-roberta": (
        "xlm-roberta",
        {
            "sentencepiece.bpe.model": "unigram",
            "tokenizer_config.json": {
                "tokenizer_class": "XLMRobertaTokenizer",
                **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
                **{"cls_token": "<s>", "sep_token": "</s>"},
                "mask_token": {"__type": "AddedToken", **token("<mask>", lstrip=True)},
            },
        },
    ),
    "gpt2": ("gpt2", byte_level_files(tokenizer_class="GPT2Tokenizer")),
    "gpt2-files": (
        "gpt2",
        {
            **byte_level_files(tokenizer_class="GPT2Tokenizer", extra_special_tokens=["<y>"]),
            "special_tokens_map.json": {"bos_token": "<|im_start|>", "mask_token": token("<m>", lstrip=True)},
            "added_tokens.json": {"<x>": 4096, "<y>": 4097, "<n>": 4098},
        },
    ),
    "qwen2": (
        "qwen3",
        byte_level_files(
            tokenizer_class="Qwen2Tokenizer",
            bos_token=None,
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            added_tokens_decoder={"2": token("<|im_end|>"), "4096": token("<n>", special=False)},
        ),
    ),
    "bert": ("bert", {"vocab.txt": "\n".join(words()) + "\n"}),
    "bert-cased": (
        "bert",
        {
            "vocab.txt": "\n".join(words()),
            "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": False},
        },
    ),
    "tokenizer.json": (
        "llama",
        {
            "tokenizer.json": tinydoc(),
            "tokenizer_config.json": {
                "tokenizer_class": "PreTrainedTokenizerFast",
                **{"eos_token": "<|im_end|>", "pad_token": "<pad>", "mask_token": "<m>"},
                "additional_special_tokens": ["<y>", "<|im_start|>"],
                "added_tokens_decoder": {"2": token("<|im_end|>", lstrip=True), "4096": token("<x>", rstrip=True)},
            },
        },
    ),
}


@pytest.mark.parametrize("name", DIRECTORIES)
def test_directories_as_transformers_reads_them(name: str, tmp_path: Path) -> None:
    model_type, files = DIRECTORIES[name]
    models = {file: sentencepiece_model(files[file]) for file in files if file.endswith(".model")}
    compare(tmp_path / "model", files | models, model_type, 60)


def test_a_complete_directory_is_left_alone(tmp_path: Path) -> None:
    folder = write(tmp_path, {"tokenizer.json": tinydoc(), "tokenizer_config.json": {"eos_token": "<|im_end|>"}})
    assert directory_tokenizer(folder) == {}
    assert directory_tokenizer(write(tmp_path / "none", {"config.json": {}})) == {}


def test_a_sentencepiece_model_alone(tmp_path: Path) -> None:
    """Without tokenizer_config.json: BOS before a text, and the names that the model has."""
    mine = loaded(tmp_path / "a", {"tokenizer.model": sentencepiece_model("llama")})
    assert (mine.bos_token, mine.eos_token) == ("<s>", "</s>")
    assert mine.encode(" a")[0] == mine.bos_token_id
    assert mine.decode(mine.encode("  two  spaces")) == "  two  spaces"


@pytest.mark.parametrize("name", ENCODINGS)
def test_files_of_ranks_as_tiktoken_reads_them(name: str) -> None:
    encoding = encoding_of(f"{name}_base.tiktoken", ranks())
    size = len(ranks())
    theirs = tiktoken.Encoding(
        name, pat_str=encoding.pattern, mergeable_ranks=ranks(), special_tokens={"<|endoftext|>": size}
    )
    rules = tiktoken_rules(read_ranks(ranks_file()), encoding)
    mine = tokenizers.Tokenizer.from_str(rules.to_json().decode())
    nfc = tokenizers.normalizers.NFC()
    for text in texts(300, 5):
        given = nfc.normalize_str(text) if encoding.nfc else text
        found = mine.encode(text, add_special_tokens=False).ids
        assert found == theirs.encode(given, disallowed_special=()), text
        assert mine.decode(found) == theirs.decode(found)


def test_a_directory_with_a_file_of_ranks(tmp_path: Path) -> None:
    """Llama 3's tokenizer.model is one; ids of special tokens are those of the original, whatever lies between."""
    files = {"config.json": {"model_type": "llama"}, "tokenizer.model": ranks_file()}
    mine = loaded(tmp_path / "llama", files)
    assert mine.encode("the<|eot_id|>") == [128000, *mine.encode("the", add_special_tokens=False), 128009]
    assert (mine.bos_token, mine.eos_token, mine.vocab_size) == ("<|begin_of_text|>", "<|end_of_text|>", 128256)
    assert mine.decode([5000, 127999]) == ""
    qwen = loaded(tmp_path / "qwen", {"qwen.tiktoken": ranks_file()})
    assert qwen.encode("<|im_start|><|extra_204|>") == [151644, 151850]


def test_cl100k_of_tiktoken() -> None:
    """The pattern is that of tiktoken's own table, but for `{1,3}+`, which is another thing in Oniguruma and the same here."""
    from tiktoken_ext import openai_public

    source = Path(openai_public.__file__).read_text("utf-8")
    assert ENCODINGS["cl100k"].pattern.replace("{1,3}|", "{1,3}+|") in source
    assert ENCODINGS["o200k"].specials == {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"AA== x\n", "line 1 of the tiktoken file"),
        (b"AA\n", "line 1 of the tiktoken file"),
        (b"AA== 0\n", "no token for 255 bytes"),
        (ranks_file() + b"AAAA 0\n", "same rank"),
    ],
)
def test_broken_files_of_ranks(data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_ranks(data)


def test_files_that_are_not_text(tmp_path: Path) -> None:
    for name in ("vocab.txt", "vocab.json", "tokenizer_config.json"):
        files = {**byte_level_files(), "vocab.txt": "[UNK]", name: b"\xff\xfe"}
        files = files if name != "vocab.txt" else {name: files[name]}
        with pytest.raises(ModelError, match="tokenizer"):
            directory_tokenizer(write(tmp_path / name, files))
    with pytest.raises(ModelError, match=r"no '\[UNK\]'"):
        directory_tokenizer(write(tmp_path / "words", {"vocab.txt": "a"}))
    listed = {"added_tokens_decoder": {"one": token("<x>")}}
    with pytest.raises(ModelError, match="cannot be read"):
        directory_tokenizer(write(tmp_path / "ids", byte_level_files(**listed)))


def test_a_source_has_the_tokenizer(tmp_path: Path) -> None:
    """A directory with a tokenizer.model alone compiles: the artifact carries what is made of it."""
    files = open_source(write(tmp_path, {"config.json": {}, "tokenizer.model": sentencepiece_model("llama")})).files()
    made = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    assert made.encode("a").tokens == ["<s>", "▁a"]
    assert json.loads(files["tokenizer_config.json"])["eos_token"] == "</s>"


def test_ranks_of_nobody() -> None:
    with pytest.raises(ModelError, match=r"x.tiktoken has 4093 ranks; files are known by"):
        encoding_of("x.tiktoken", ranks())


def test_broken_vocabularies() -> None:
    for text in ("{", "[]", '{"a": "b"}', '{"a": -1}'):
        with pytest.raises(ModelError, match=r"vocab\.json"):
            read_vocab_json(text)
    with pytest.raises(ModelError, match="line 2 of the merges is 'a b c'"):
        read_merges(["#version: 0.2", "a b c"])
    with pytest.raises(ModelError, match="merges name 2 tokens that the vocabulary lacks: 'c', 'ac'"):
        check_merges({"a": 0}, [("a", "c")])


def test_holes_in_a_vocabulary(tmp_path: Path) -> None:
    """Added tokens have the ids that their file says; what is between them has no text."""
    added = {"4100": token("<x>"), "4098": token("<y>", special=False)}
    mine = loaded(tmp_path / "bpe", byte_level_files(tokenizer_class="GPT2Tokenizer", added_tokens_decoder=added))
    assert mine.encode("<x>a<y>") == [4100, *mine.encode("a"), 4098]
    assert mine.vocab_size == 4101
    assert mine.decode([4099, 4096]) == ""
    config = {"tokenizer_class": "XLMRobertaTokenizer", "added_tokens_decoder": {"610": token("<x>")}}
    pieces = loaded(
        tmp_path / "sp", {"sentencepiece.bpe.model": sentencepiece_model("unigram"), "tokenizer_config.json": config}
    )
    assert pieces.encode("a<x>")[-2] == 610
    changed = tinydoc() | {"added_tokens": [*tinydoc()["added_tokens"], {"id": 4103, **token("<x>")}]}
    again = loaded(tmp_path / "json", {"tokenizer.json": changed})
    assert again.encode("<x>") == [4103]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"tokenizer_config.json": {"added_tokens_decoder": {"5": token("<x>")}}},
            "id 5 is '#' in the vocabulary, '<x>'",
        ),
        (
            {"tokenizer_config.json": {"added_tokens_decoder": {"9": token("#")}}},
            "'#' has id 5 in the vocabulary, 9 in",
        ),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"9": "#"}}}, "must be an object with a content"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"9" * 12: token("<x>")}}}, "'<x>' has id 999999999999\n"),
        (
            {"tokenizer.json": tinydoc() | {"added_tokens": [{"id": 10**12, **token("<x>")}]}},
            "'<x>' has id 1000000000000\n",
        ),
        ({"tokenizer_config.json": "{"}, "tokenizer_config.json is not JSON"),
        ({"added_tokens.json": "[]"}, "added_tokens.json must hold a JSON object"),
        (
            {"tokenizer.json": tinydoc() | {"added_tokens": [{"id": 300, **token("<x>")}]}},
            "added token '<x>' has id 300\n.* the vocabulary has 'Ġis' there",
        ),
    ],
)
def test_ids_that_contradict_each_other(files: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path, {"tokenizer.json": tinydoc(), **files})
    with pytest.raises(ModelError, match=message):
        directory_tokenizer(tmp_path)
