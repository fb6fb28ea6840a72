"""generation_config.json: what a model's makers say about generating, and the tokens that end a text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .problems import ModelError, error

GENERATION_FILE = "generation_config.json"
_FIX = "download the file again"


def generation_defaults(file: bytes | None, raw: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json with the end tokens (its own, else those of config.json) as a list `eos_token_ids`.

    ModelError where the file is no JSON object, or an end token is no token id.
    """
    try:
        found = json.loads(file) if file is not None else {}
    except (ValueError, RecursionError) as exception:
        problem = error(f"{GENERATION_FILE} cannot be read", str(exception), _FIX)
        raise ModelError(GENERATION_FILE, [problem]) from exception
    if not isinstance(found, dict):
        problem = error(f"{GENERATION_FILE} cannot be read", "it must be a JSON object", _FIX)
        raise ModelError(GENERATION_FILE, [problem])
    home = GENERATION_FILE if "eos_token_id" in found else "config.json"
    eos = found.get("eos_token_id", raw.get("eos_token_id"))
    ids = [] if eos is None else eos if isinstance(eos, list) else [eos]
    if wrong := [number for number in ids if type(number) is not int]:
        why = f"{', '.join(map(repr, wrong[:4]))}: a token id is an integer"
        raise ModelError(home, [error(f"eos_token_id in {home} is not valid", why, "take the id from the tokenizer")])
    return {**found, "eos_token_ids": list(ids)}
