"""/v1/completions."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..sampling import SamplingParams
from .body import BodyRoute
from .errors import ServerError
from .formats import structured
from .json_text import encode
from .logprobs import CompletionTexts, prompt_logprobs
from .prompts import token_lists
from .responding import ERRORS, json_response, streaming
from .schema.base import Usage, usage
from .schema.completions import CompletionAnswer, CompletionChoice, CompletionLogprobs, CompletionRequest
from .service import Service, new_id
from .sse import DONE, respond, unless_gone
from .texts import Sample, Texts, together

router = APIRouter(route_class=BodyRoute)
MAX_TOKENS = 16
"""Tokens of a text where the body does not say; OpenAI's."""
MAX_TEXTS = 4096
"""Texts of one request: prompts times n."""


@router.post("/v1/completions", responses=streaming(CompletionAnswer) | ERRORS)
async def completions(body: CompletionRequest, request: Request) -> Response:
    """The texts after prompts, at once or as a stream of chunks."""
    service: Service = request.app.state.service
    name = service.check_name(body.model)
    params = completion_params(body)
    prompts = await token_lists(service, body.prompt, "prompt", body.add_special_tokens is not False)
    if len(prompts) * params.n > MAX_TEXTS:
        why = f"{len(prompts)} prompts with n={params.n}; allowed are {MAX_TEXTS} texts in one request"
        raise ServerError(400, why, param="n", code="invalid_value")
    answer = Answering(service, body, name, prompts, params)
    makers = [
        functools.partial(service.outputs, request, ids, params, body.options, f"{answer.id}-{i}")
        for i, ids in enumerate(prompts)
    ]
    if body.stream:
        return await respond(request, answer.events(makers), service.settings)
    return json_response(await unless_gone(request, answer.whole(makers)))


def completion_params(body: CompletionRequest) -> SamplingParams:
    """The parameters of every prompt. Echo with log probabilities asks the engine for those of the prompt."""
    own: dict[str, Any] = {"max_tokens": MAX_TOKENS if body.max_tokens is None else max(1, body.max_tokens)}
    if body.max_tokens == 0 and not body.echo:
        raise ServerError(400, "max_tokens is 0, which only echo can do with", param="max_tokens", code="invalid_value")
    if body.logprobs is not None:
        own["logprobs"] = body.logprobs
        if body.echo:
            if body.stream:
                raise ServerError(400, "echo with logprobs does not stream", param="echo", code="invalid_value")
            own["prompt_logprobs"] = max(body.logprobs, body.prompt_logprobs or 0)
    if body.min_tokens and body.max_tokens == 0:
        own["min_tokens"] = 0
    return body.params(**own, **structured(body.response_format, body.structured_outputs))


class Answering:
    """One answer in the making."""

    def __init__(
        self,
        service: Service,
        body: CompletionRequest,
        name: str,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
    ) -> None:
        self.id = new_id("cmpl")
        self._body, self._name, self._prompts, self._params = body, name, prompts, params
        self._tokenizer, self._created = service.model.tokenizer, int(time.time())
        self._prompt_tokens = sum(map(len, prompts))
        self._alone = body.max_tokens == 0  # the prompt is all that is wanted

    def _echo(self, number: int) -> str:
        """The text of a prompt."""
        prompt = self._body.prompt
        if isinstance(prompt, str):
            return prompt
        given = prompt[number]
        return given if isinstance(given, str) else self._tokenizer.decode(self._prompts[number], False)

    async def whole(self, makers: Sequence[Any]) -> CompletionAnswer:
        """The answer of a request that does not stream."""
        found = [Texts() for _ in makers]
        async with contextlib.aclosing(together(makers)) as outputs:
            async for number, output in outputs:
                found[number].add(output)
        choices = [
            self._choice(number, index, sample, texts)
            for number, texts in enumerate(found)
            for index, sample in sorted(texts.samples.items())
        ]
        generated = 0 if self._alone else sum(texts.tokens for texts in found)
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self._created,
            "model": self._name,
            "choices": choices,
            "usage": usage(self._prompt_tokens, generated, sum(texts.cached for texts in found)),
        }

    def _choice(self, number: int, index: int, sample: Sample, texts: Texts) -> CompletionChoice:
        body, text = self._body, "" if self._alone else sample.text
        logprobs: CompletionLogprobs | None = None
        if body.logprobs is not None:
            pieces, ids = CompletionTexts(body.logprobs), self._prompts[number]
            of_prompt = texts.prompt_logprobs or () if body.echo else ()
            first = self._tokenizer.decode([ids[0]], False)
            tables = () if self._alone else sample.logprobs
            logprobs = pieces.add([*of_prompt, *tables], first)
        reason: Any = "length" if self._alone else sample.reason
        choice: CompletionChoice = {
            "index": number * self._params.n + index,
            "text": self._echo(number) + text if body.echo else text,
            "logprobs": logprobs,
            "finish_reason": reason,
            "stop_reason": None if self._alone else sample.stop,
        }
        if body.prompt_logprobs is not None and texts.prompt_logprobs is not None:
            choice["prompt_logprobs"] = prompt_logprobs(texts.prompt_logprobs)
        return choice

    async def events(self, makers: Sequence[Any]) -> AsyncGenerator[str, None]:
        """The chunks of a stream. Their text is put together by hand: there is one for every token."""
        body, n = self._body, self._params.n
        wants_usage, always = body.wants_usage
        head = (
            f'data: {{"id":"{self.id}","object":"text_completion","created":{self._created},'
            f'"model":{encode(self._name)},"choices":['
        )
        texts: dict[int, CompletionTexts] = {}
        generated = cached = 0

        def end() -> str:
            used: Usage | None = usage(self._prompt_tokens, generated) if always else None
            return f'],"usage":{encode(used)}}}\n\n' if wants_usage else "]}\n\n"

        async with contextlib.aclosing(together(makers)) as outputs:
            async for number, output in outputs:
                chunk = ""
                for delta in output.outputs:
                    index = number * n + delta.index
                    text, logprobs = "" if self._alone else delta.text, "null"
                    if index not in texts:
                        texts[index] = CompletionTexts(body.logprobs or 0)
                        text = self._echo(number) + text if body.echo else text
                    if body.logprobs is not None and delta.logprobs:
                        logprobs = encode(texts[index].add(delta.logprobs))
                    generated += 0 if self._alone else len(delta.token_ids)
                    if text or logprobs != "null" or delta.finish_reason:
                        stop = "" if delta.stop_reason is None else f',"stop_reason":{encode(delta.stop_reason)}'
                        chunk += (
                            f'{head}{{"index":{index},"text":{encode(text)},"logprobs":{logprobs},'
                            f'"finish_reason":{encode(delta.finish_reason)}{stop}}}{end()}'
                        )
                if output.finished:
                    cached += output.num_cached_tokens
                if chunk:
                    yield chunk
        if wants_usage:
            yield f'{head}],"usage":{encode(usage(self._prompt_tokens, generated, cached))}}}\n\n'
        yield DONE
