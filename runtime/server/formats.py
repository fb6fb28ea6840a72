"""What a text has to be (`response_format`), as SamplingParams have it."""

from __future__ import annotations

from typing import Any

from .errors import ServerError
from .schema.chat import ResponseFormat


def structured(wanted: ResponseFormat | None, others: object) -> dict[str, Any]:
    """Options for SamplingParams. `others` is the body's structured_outputs, which must not be given as well."""
    if wanted is None or wanted.type == "text":
        return {}
    if others is not None:
        raise ServerError(400, "response_format and structured_outputs are both given", param="response_format")
    if wanted.type == "json_object":
        return {"structured": {"json_object": True}}
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        why = "response_format of type json_schema has no json_schema.schema"
        raise ServerError(400, why, param="response_format.json_schema", code="missing")
    return {"structured": {"json": wanted.json_schema.schema_}}
