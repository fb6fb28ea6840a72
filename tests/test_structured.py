"""Grammars: what is given, what is refused and by which name, and that matchers allow exactly the texts that are meant."""

from __future__ import annotations

import builtins
import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle import SamplingParams, Structured
from heddle.runtime.engine import Engine
from heddle.runtime.errors import RequestError
from heddle.runtime.null_runner import NullRunner
from heddle.runtime.parameters import UnknownOptionError
from heddle.runtime.structured import llguidance_backend
from heddle.runtime.structured.disjoint import disjoint
from heddle.runtime.structured.grammar import GrammarError, Grammars
from heddle.runtime.structured.llguidance_backend import LLGuidance, LLGuidanceMatcher
from heddle.runtime.structured.schema import ANNOTATIONS, KEYWORDS, UNSUPPORTED, prepared
from heddle.runtime.tokenizer import Tokenizer

from .tokenizers_for_tests import byte_fallback, byte_level

TOKENIZER = byte_level()
BACKEND = LLGuidance(TOKENIZER, 4100)
ENDS = (0, 2)


def matcher_of(backend: LLGuidance = BACKEND, ends: tuple[int, ...] = ENDS, **spec: Any) -> LLGuidanceMatcher:
    """A matcher of this grammar."""
    return backend(Structured(**spec)).matcher(ends)


def allowed(matcher: LLGuidanceMatcher, vocab: int = 4100) -> set[int]:
    """The tokens that may come next."""
    row = np.full(-(-vocab // 32), -1, np.int32)
    matcher.fill(row)
    return set(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist())


def matches(text: str, tokenizer: Tokenizer = TOKENIZER, backend: LLGuidance = BACKEND, **spec: Any) -> bool:
    """Whether the text, as the tokenizer encodes it, goes through the masks and may end."""
    matcher = matcher_of(backend, **spec)
    for token in tokenizer.encode(text, add_special_tokens=False):
        if matcher.finished or token not in allowed(matcher, backend.vocab):
            return False
        matcher.accept(token)
    return matcher.finished or set(ENDS) <= allowed(matcher, backend.vocab)


def refusal(**spec: Any) -> str:
    """The message of the error that a grammar ends in."""
    with pytest.raises(RequestError) as info:
        BACKEND(Structured(**spec))
    return str(info.value)


# What is given.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing that a text has to match"),
        ({"json": {}, "regex": "a"}, "json and regex"),
        ({"json": "{"}, "no JSON"),
        ({"json": "[1]"}, "an object, true or false"),
        ({"json": {"const": float("nan")}}, "no JSON"),
        ({"json": {"const": "\ud800"}}, "no JSON"),
        ({"json": {1: 2}}, "a key is 1"),
        ({"json": "[" * 100_000}, "nested too deeply"),
        ({"json_object": 1}, "True or False"),
        ({"regex": ""}, "not empty"),
        ({"grammar": 3}, "not empty"),
        ({"choice": []}, "nothing can be generated"),
        ({"choice": "abc"}, "a list of texts"),
        ({"choice": ["a", ""]}, "texts that are not empty"),
        ({"regex": "a", "disable_any_whitespace": True}, "is about JSON"),
        ({"regex": "a" * (1 << 21)}, "allowed are 1048576"),
        (3, "a mapping with one of"),
    ],
)
def test_what_makes_no_sense_is_refused(given: Any, message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        SamplingParams(structured=given)


def test_fields_are_kept_in_a_normal_form() -> None:
    params = SamplingParams(structured={"json": {"type": "object", "properties": {"b": {}, "a": {}}}})
    assert params.structured == Structured(json='{"type": "object", "properties": {"b": {}, "a": {}}}')
    assert hash(params) == hash(SamplingParams(structured=params.structured))
    assert Structured(choice=["a", "b", "a"]).choice == ("a", "b")
    with pytest.raises(UnknownOptionError, match="did you mean choice"):
        SamplingParams(structured={"choise": ["a"]})


# What a schema may say.


@pytest.mark.parametrize("keyword", sorted(UNSUPPORTED))
def test_unsupported_keywords_are_named_with_their_place(keyword: str) -> None:
    assert f"json.properties.a.items.{keyword} is not supported" in refusal(
        json={"properties": {"a": {"items": {"type": "array", keyword: {}}}}}
    )


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"properties": {"a": {"requird": ["x"]}}}, "json.properties.a.requird is no keyword of JSON Schema"),
        ({"anyOf": [{}, {"items": [{"type": "integer"}]}]}, "json.anyOf[1].items is a list"),
        ({"anyOf": {}}, "json.anyOf must be a list of schemas"),
        ({"properties": []}, "json.properties must be an object of schemas"),
        ({"items": 3}, "json.items is 3; a schema is an object, true or false"),
        ({"minimum": 3, "exclusiveMinimum": True}, "json.exclusiveMinimum is True"),
        ({"additionalItems": False}, "json.additionalItems has no list of items before it"),
        ({"additionalProperties": True, "minProperties": 2}, "json.minProperties is 2, and 0 properties are required"),
        ({"$defs": {"a": {"pattern": "("}}, "$ref": "#/$defs/a"}, "json.$defs.a.pattern cannot be used"),
        ({"properties": {"a": {"pattern": "^(?=a)b"}}}, "json.properties.a.pattern cannot be used: regex parse error"),
        ({"prefixItems": [{"format": "iri"}]}, "json.prefixItems[0].format cannot be used: Unknown format: iri"),
        ({"patternProperties": {"[": {}}}, "json.patternProperties.[ cannot be used"),
        ({"$ref": "#/$defs/no"}, "Pointer '/$defs/no' does not exist"),
        ({"$ref": "http://other/place"}, "http://other/place"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "json cannot be used"),
        ({"minimum": 5, "maximum": 3, "type": "integer"}, "minimum (5) is greater than maximum (3)"),
        ({"type": "strin"}, "Invalid type: strin"),
        ({"type": "integer", "multipleOf": 10_000_019}, "json.multipleOf is 10000019"),
        ({"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}, "json.allOf[1].multipleOf is 9967"),
        (
            {"oneOf": [{"type": "integer"}, {"type": "number"}]},
            "json.oneOf is not supported here: a value may fit both [0]",
        ),
        (False, "json is false, which no value fits"),
    ],
)
def test_schemas_that_cannot_be_kept_are_refused(schema: Any, message: str) -> None:
    assert message in refusal(json=schema)


def test_depth_is_bounded() -> None:
    assert "nested too deeply" in refusal(json='{"items":' * 90 + "{}" + "}" * 90)


def test_every_supported_keyword_and_annotation_is_taken() -> None:
    """Each in a schema that compiles; none is left out of the list of keywords."""
    schemas: list[dict[str, Any]] = [
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "null"}], "additionalItems": False},
        {"type": "array", "prefixItems": [{"const": 1}], "items": {"enum": [2]}, "minItems": 1, "maxItems": 3},
        {"type": "object", "properties": {"a": {}}, "required": ["a"], "minProperties": 1, "maxProperties": 2},
        {"type": "object", "patternProperties": {"^a": {}}, "additionalProperties": False},
        {"type": "string", "minLength": 1, "maxLength": 3, "pattern": "a"},
        {"type": "string", "format": "uuid"},
        {"type": "number", "minimum": 0, "exclusiveMaximum": 4, "multipleOf": 0.5},
        {"type": "integer", "exclusiveMinimum": 0, "maximum": 4},
        {"$defs": {"a": {"type": "null"}}, "definitions": {}, "anyOf": [{"$ref": "#/$defs/a"}, {"type": "string"}]},
        {"allOf": [{"oneOf": [{"type": "null"}, {"type": "string"}]}]},
        dict.fromkeys(ANNOTATIONS - {"$schema", "$id", "id", "discriminator"}, "x") | {"x-order": 3, "type": "null"},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://a/b", "type": "null"},
        {"id": "a", "discriminator": {"propertyName": "k"}, "type": "null"},
    ]
    for schema in schemas:
        assert allowed(matcher_of(json=schema))
    assert set(re.findall(r'"([$\w]+)":', json.dumps(schemas))) >= {*KEYWORDS, *ANNOTATIONS}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"type": "integer"}, {"type": "string"}, True),
        ({"type": "integer"}, {"type": "number"}, False),
        ({"type": ["null", "string"]}, {"type": ["integer", "string"]}, False),
        ({"const": 1}, {"const": 1.0}, False),
        ({"const": 1}, {"const": True}, True),
        ({"enum": ["a", "b"]}, {"enum": ["c"]}, True),
        ({"enum": [{"a": 1, "b": [2.0]}]}, {"const": {"b": [2], "a": 1}}, False),
        ({"type": "integer", "maximum": 3}, {"type": "number", "exclusiveMinimum": 3}, True),
        ({"type": "integer", "maximum": 3}, {"type": "number", "minimum": 3}, False),
        ({"maximum": 3}, {"minimum": 5}, False),
        ({"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}, True),
        ({"$ref": "#/$defs/a"}, {"$ref": "#/$defs/c"}, False),
        ({"$ref": "#/$defs/d"}, {"type": "null"}, False),
        ({"anyOf": [{"const": 1}, {"const": 2}]}, {"allOf": [{"const": 3}]}, True),
        ({"properties": {"k": {"const": 1}}}, {"properties": {"k": {"const": 2}}}, False),
        (True, {"type": "null"}, False),
        (False, True, True),
    ],
)
def test_disjoint_schemas(one: Any, other: Any, expected: bool) -> None:
    tagged = {name: {"type": "object", "properties": {"k": {"const": name}}, "required": ["k"]} for name in "ab"}
    root = {"$defs": tagged | {"c": {"type": "object"}, "d": {"$ref": "#/$defs/d"}}}
    assert disjoint(one, other, root) is expected
    assert disjoint(other, one, root) is expected


def test_alternatives_that_exclude_each_other_become_any() -> None:
    both = {"oneOf": [{"const": 1}, {"const": 2}], "anyOf": [{"type": "integer"}]}
    assert json.loads(prepared(json.dumps(both))) == {
        "anyOf": [{"type": "integer"}],
        "allOf": [{"anyOf": [{"const": 1}, {"const": 2}]}],
    }
    assert matches("2", json=both)
    assert not matches("3", json=both)


# What grammars allow.

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(choice=st.lists(TEXTS, min_size=1, max_size=5), other=TEXTS)
def test_choices(choice: list[str], other: str) -> None:
    assert all(matches(text, choice=choice) for text in choice)
    assert matches(other, choice=choice) == (other in choice)


PIECES = st.sampled_from(["a", "b", "[0-9]", "(ab|ba)", "c?", "a*", "[^a]", "x{2,3}", r"\d+", "é"])


@settings(max_examples=60, deadline=None)
@given(regex=st.lists(PIECES, min_size=1, max_size=4).map("".join), text=st.text("abcx012é", min_size=1, max_size=7))
def test_regular_expressions(regex: str, text: str) -> None:
    assert matches(text, regex=regex) == bool(re.fullmatch(regex, text, re.ASCII))


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "(" start ")" | "x"',
        'root ::= "(" root ")" | "x"',
        'root ::= pair | "x" # a comment\npair ::= "(" root ")"\n',
    ],
)
def test_grammars_in_both_notations(grammar: str) -> None:
    assert matches("((x))", grammar=grammar)
    assert not matches("((x)", grammar=grammar)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"regex": "("}, "unclosed group"),
        ({"regex": "(" * 10_000 + "a" + ")" * 10_000}, "cannot be used"),
        ({"grammar": "start: foo"}, 'unknown name: "foo"'),
        ({"grammar": "start: " + "(" * 10_000 + '"a"' + ")" * 10_000}, "too deeply nested"),
        ({"grammar": 'root ::= "a'}, "cannot be read as GBNF"),
        ({"grammar": "root ::= " + "(" * 100_000}, "cannot be read as GBNF"),
        ({"grammar": 'start: ""'}, "only the end of the text"),
    ],
)
def test_grammars_that_make_no_sense_are_refused(spec: dict[str, Any], message: str) -> None:
    assert message in refusal(**spec)


def test_layout_of_json() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "null"}}, "required": ["a", "b"]}
    schema["additionalProperties"] = False
    for text, free, tight in (
        ('{"a": 1, "b": null}', True, True),
        ('{"a":1,"b":null}', True, False),
        ('{\n  "a": 1,\n  "b": null\n}', True, False),
        ('{"a": 1, "b":' + " " * 40 + "null}", False, False),
    ):
        assert matches(text, json=schema) is free
        assert matches(text, json=schema, disable_any_whitespace=True) is tight
    assert matches('{"x": [1, {"y": null}]}', json_object=True)
    assert not matches("[1]", json_object=True)


# Ends, and tokens that are no text.


def test_end_tokens_are_allowed_where_the_text_may_end() -> None:
    newline = TOKENIZER.encode("\n", add_special_tokens=False)[0]
    matcher = matcher_of(regex="a(\nb)?", ends=(2, newline))
    assert {2, newline}.isdisjoint(allowed(matcher))
    matcher.accept(TOKENIZER.encode("a", add_special_tokens=False)[0])
    assert allowed(matcher) >= {2, newline}  # here the newline ends the text
    stuck = matcher_of(regex="a\nb", ends=(newline,))
    stuck.accept(TOKENIZER.encode("a", add_special_tokens=False)[0])
    with pytest.raises(GrammarError, match="allows no token"):
        allowed(stuck)


def test_a_grammar_may_name_special_tokens() -> None:
    matcher = matcher_of(grammar='start: "a" <|im_end|>')
    matcher.accept(TOKENIZER.encode("a", add_special_tokens=False)[0])
    assert allowed(matcher) == {2}


def test_padding_and_special_tokens_are_no_text() -> None:
    assert max(allowed(matcher_of(regex="(?s:.)*"))) < 4096
    assert allowed(matcher_of(regex="(?s:.)*", ends=())).isdisjoint({0, 1, 2})


def test_other_tokenizers() -> None:
    """Byte fallback, and ids that are left out."""
    other = byte_fallback()
    backend = LLGuidance(other, 300)
    matcher = matcher_of(backend, ends=(2,), regex="[aeht 你é🤙]+\\.b")
    pieces = ["a", "▁the", "你", "é", *(f"<0x{byte:02X}>" for byte in "🤙".encode()), ".", "b"]
    for piece in pieces:
        token = other.vocabulary[piece]
        assert token in allowed(matcher, 300)
        matcher.accept(token)
    assert matcher.finished
    described = json.loads(TOKENIZER.to_json())
    described["model"]["vocab"] = {name: i if i < 4000 else i + 50 for name, i in described["model"]["vocab"].items()}
    import tokenizers

    sparse = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(described)), {})
    backend = LLGuidance(sparse, 4200)
    assert sparse.vocab_size == 4146
    assert matches("structured output", sparse, backend, choice=["structured output"])


def test_a_tokenizer_that_does_not_fit_is_an_error_of_the_request() -> None:
    import tokenizers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, "a"))
    words.decoder = tokenizers.decoders.WordPiece()
    with pytest.raises(RequestError, match="does not serve structured output"):
        LLGuidance(Tokenizer(words, {}), 2)(Structured(regex="a"))


def test_copies_go_their_own_ways() -> None:
    one = matcher_of(choice=["ab", "ac"])
    one.accept(TOKENIZER.encode("a", add_special_tokens=False)[0])
    other = one.copy()
    one.accept(TOKENIZER.encode("b", add_special_tokens=False)[0])
    assert one.finished
    assert not other.finished
    assert len(allowed(other)) == 2


# In an engine.


def test_compiled_grammars_are_cached_and_the_cache_is_bounded() -> None:
    compiled: list[Structured] = []
    grammars = Grammars(lambda spec: compiled.append(spec) or BACKEND(spec), kept=2)  # type: ignore[func-returns-value]
    specs = [Structured(regex=text) for text in ("a", "b", "c")]
    assert grammars.get(specs[0]) is grammars.get(Structured(regex="a"))
    for spec in (specs[1], specs[0], specs[2], specs[0], specs[1]):
        grammars.get(spec)
    assert [spec.regex for spec in compiled] == ["a", "b", "c", "b"]


def test_an_engine_without_a_tokenizer_refuses() -> None:
    with pytest.raises(RequestError, match="needs a tokenizer"):
        Engine(NullRunner()).prepare([1], SamplingParams(structured={"regex": "a"}))


def test_a_bad_grammar_is_an_error_of_the_request() -> None:
    with pytest.raises(RequestError, match="unclosed group"):
        Engine(NullRunner(vocab_size=4096), TOKENIZER).prepare([1], SamplingParams(structured={"regex": "("}))


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "llguidance":
            raise ImportError(name)
        return real(name, *args, **options)

    llguidance_backend._library.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RequestError, match=re.escape("pip install 'heddle[grammar]'")):
        LLGuidance(TOKENIZER, 4096)(Structured(regex="a"))
