"""The smaller endpoints: models, tokens, health, metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from ... import __version__
from .body import BodyRoute
from .conversation import plain_messages, plain_tools, template_variables
from .errors import ServerError
from .responding import ERRORS, answers, json_response
from .schema.others import (
    DetokenizeAnswer,
    DetokenizeRequest,
    Health,
    ModelCard,
    ModelList,
    TokenizeAnswer,
    TokenizeRequest,
    Version,
)
from .service import SHORT, Service

router = APIRouter(route_class=BodyRoute)


@router.get("/v1/models", responses=answers(ModelList) | ERRORS)
async def models(request: Request) -> Response:
    """The names of the model."""
    service: Service = request.app.state.service
    listed: ModelList = {"object": "list", "data": [_card(service, name) for name in service.settings.names]}
    return json_response(listed)


@router.get("/v1/models/{name:path}", responses=answers(ModelCard) | ERRORS)
async def model(name: str, request: Request) -> Response:
    """One of the names."""
    service: Service = request.app.state.service
    return json_response(_card(service, service.check_name(name)))


def _card(service: Service, name: str) -> ModelCard:
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "heddle",
        "max_model_len": service.model.context_length,
    }


@router.post("/tokenize", responses=answers(TokenizeAnswer) | ERRORS)
async def tokenize(body: TokenizeRequest, request: Request) -> Response:
    """Token ids of `prompt`, or of `messages` by the chat template."""
    service: Service = request.app.state.service
    service.check_name(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise ServerError(400, "give either prompt or messages", param="prompt", code="invalid_value")
    if body.messages is not None:
        tools = plain_tools(body.tools) if body.tools else None
        variables = template_variables(body.chat_template_kwargs, add_generation_prompt=body.add_generation_prompt)
        ids = await service.conversation(plain_messages(body.messages), tools, variables)
    else:
        ids = await service.tokens(body.prompt or "", body.add_special_tokens is not False)
    answer: TokenizeAnswer = {"count": len(ids), "max_model_len": service.model.context_length, "tokens": ids}
    if body.return_token_strs:
        answer["token_strs"] = [service.model.tokenizer.decode([i], False) for i in ids]
    return json_response(answer)


@router.post("/detokenize", responses=answers(DetokenizeAnswer) | ERRORS)
async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
    """The text of token ids, special ones included."""
    service: Service = request.app.state.service
    service.check_name(body.model)
    tokenizer = service.model.tokenizer
    text = await service.work(len(body.tokens) > SHORT, lambda: tokenizer.decode(body.tokens, False))
    answer: DetokenizeAnswer = {"prompt": text}
    return json_response(answer)


@router.get("/health", responses=answers(Health) | {503: {"model": Health, "description": "Nothing is served."}})
async def health(request: Request) -> Response:
    """Whether requests are served."""
    service: Service = request.app.state.service
    dead = service.model.failure is not None
    status = "draining" if service.lifecycle.draining else "dead" if dead else "ok"
    response = json_response({"status": status})
    response.status_code = 200 if status == "ok" else 503
    return response


@router.get("/version", responses=answers(Version))
async def version() -> Response:
    """Heddle's version."""
    return json_response({"version": __version__})


@router.get("/metrics", responses={200: {"content": {"text/plain": {}}, "description": "Prometheus metrics."}})
async def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    service: Service = request.app.state.service
    data, content_type = service.metrics.render(request.headers.get("accept", ""))
    return Response(data, headers={"content-type": content_type})
