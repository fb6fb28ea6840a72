"""The fields of a body that say how tokens are chosen: those of `SamplingParams`, by its names."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from pydantic import Field

from ...sampling import MAX_BIAS, MAX_LOGPROBS, SamplingParams
from .base import Int, Strict, TokenId

MAX_SAMPLES = 128
"""Answers to one prompt, at most."""

_Text = Annotated[str, Field(min_length=1)]
_Fraction = Annotated[float, Field(gt=0, le=1)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]


class StreamOptions(Strict):
    """Of a stream: whether a last chunk tells of the tokens used, and whether every chunk does."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Sampling(Strict):
    """What OpenAI's endpoints have in common, and Heddle's own fields. docs/serving.md explains them."""

    model: str | None = Field(None, description="One of /v1/models; may be left out.")
    n: Annotated[Int, Field(ge=1, le=MAX_SAMPLES)] | None = Field(None, description="Answers to one prompt.")
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.001, le=1000)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = Field(None, description="0 takes the likeliest token.")
    top_p: _Fraction | None = None
    top_k: Annotated[Int, Field(ge=-1, lt=1 << 63)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: _Fraction | None = None
    seed: Annotated[Int, Field(ge=-(1 << 63), lt=1 << 64)] | None = None
    stop: _Text | Annotated[list[_Text], Field(max_length=64)] | None = None
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool | None = None
    max_tokens: Annotated[Int, Field(ge=1, lt=1 << 63)] | None = None
    min_tokens: Annotated[Int, Field(ge=0, lt=1 << 63)] | None = None
    prompt_logprobs: Annotated[Int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]] | None = Field(
        None, description="Numbers by token ids."
    )
    allowed_token_ids: list[TokenId] | None = None
    bad_token_ids: list[TokenId] | None = None
    bad_words: _Text | Annotated[list[_Text], Field(max_length=256)] | None = None
    skip_special_tokens: bool | None = None
    structured_outputs: dict[str, Any] | None = Field(None, description="What the text has to match.")
    priority: Annotated[Int, Field(ge=-(1 << 31), lt=1 << 31)] | None = Field(None, description="Smaller is sooner.")
    cache_salt: str | None = Field(None, description="Only requests with the same one share cached prefixes.")
    timeout: Annotated[float, Field(gt=0)] | None = Field(None, description="Seconds, after which the text is cut.")
    user: str | None = Field(None, description="The tenant, for the fair policy.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Of OpenAI, without an effect here.
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def params(self, **others: Any) -> SamplingParams:
        """The SamplingParams that the body asks for; `others` stand for what it says in its own way. RequestError."""
        given: dict[str, Any] = {}
        for name in FIELDS:
            value = getattr(self, name, None)
            if value is not None:
                given[name] = value
        if self.seed is not None:
            given["seed"] = self.seed % (1 << 64)
        if self.logit_bias is not None:
            given["logit_bias"] = {_token(name): bias for name, bias in self.logit_bias.items()}
        if self.structured_outputs is not None:
            given["structured"] = self.structured_outputs
        return SamplingParams(**given | others)

    @property
    def options(self) -> dict[str, Any]:
        """The options of a request besides its parameters, as `Model.generate` takes them."""
        return {
            "priority": self.priority or 0,
            "tenant": self.user or "",
            "timeout": self.timeout,
            "salt": self.cache_salt or "",
        }

    @property
    def wants_usage(self) -> tuple[bool, bool]:
        """Whether a stream ends with the usage, and whether every chunk has it."""
        options = self.stream_options
        if options is None:
            return False, False
        always = bool(options.continuous_usage_stats)
        return bool(options.include_usage) or always, always


FIELDS = tuple(f.name for f in dataclasses.fields(SamplingParams) if f.name not in ("logprobs", "structured"))


def _token(name: str) -> int:
    """A token id, which is the name of a field in JSON."""
    return int(name) if name.isascii() and name.isdigit() and len(name) < 12 else -1  # which SamplingParams refuses
