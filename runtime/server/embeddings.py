"""/v1/embeddings."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from .body import BodyRoute
from .errors import ServerError
from .prompts import token_lists
from .responding import ERRORS, answers, json_response
from .schema.base import usage
from .schema.others import Embedding, EmbeddingAnswer, EmbeddingRequest
from .service import Service
from .sse import unless_gone

router = APIRouter(route_class=BodyRoute)


@router.post("/v1/embeddings", responses=answers(EmbeddingAnswer) | ERRORS)
async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
    """A vector for each input: the final hidden states, pooled as the model's makers say unless the body does."""
    service: Service = request.app.state.service
    name = service.check_name(body.model)
    truncate = service.model.text_length(body.truncate_prompt_tokens)
    prompts = await token_lists(service, body.input, "input", truncate=truncate)
    vectors = await unless_gone(request, service.embeddings(request, prompts, body.pooling, body.normalize))
    if body.dimensions not in (None, len(vectors[0])):
        why = f"dimensions is {body.dimensions}; the model has {len(vectors[0])}, and a part of them is no embedding"
        raise ServerError(400, why, param="dimensions", code="invalid_value")
    as_text = body.encoding_format == "base64"
    answer: EmbeddingAnswer = {
        "object": "list",
        "data": [_embedding(i, vector, as_text) for i, vector in enumerate(vectors)],
        "model": name,
        "usage": usage(sum(map(len, prompts)), 0),
    }
    return json_response(answer)


def _embedding(index: int, vector: np.ndarray, as_text: bool) -> Embedding:
    value: Any = base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_text else vector.tolist()
    return {"object": "embedding", "index": index, "embedding": value}
