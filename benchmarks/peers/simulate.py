"""A quantized decoder as torch computes it: transformers in float32 on decoded weights, with fake-quantized activations.

The oracle of `quality.py`, which writes the decoded weights. Nothing here is shared with the kernels: activations are
rounded to the nearest code and multiplied out again in float32, by the definition of each format.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np

STEPS = {"int8": 127, "int8-group": 127, "limbs": 127 * 128}
"""The code of the largest magnitude that shares a scale, by activation format."""
HEAD = "lm_head"


def fake_quantized(torch: Any, x: Any, activation: str, group: int) -> Any:
    """x [..., K] rounded to `activation`: one scale per row, or per `group` k's of a row in "int8-group"."""
    rows = x.unflatten(-1, (-1, group)) if activation == "int8-group" else x
    scale = rows.abs().amax(-1, keepdim=True) / STEPS[activation]
    codes = torch.round(rows / torch.where(scale > 0, scale, 1))  # ties to even
    return (codes * scale).reshape(x.shape)


def decoder_losses(a: dict[str, np.ndarray], threads: int) -> Callable[[], np.ndarray]:
    """Nats of the scored tokens, float64[scored], of the model directory a["model"].

    a["tokens"] holds the tokens of all windows, a["lengths"] those of each, of which the last a["scored"] count. a["linears"]
    and a["head"] are JSON: [activation format, group size] of the inputs of all linears but the head, and of the head's;
    "f32" leaves them as they are.
    """
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(str(a["model"]), dtype=torch.float32).eval()
    for name, module in model.named_modules():
        activation, group = json.loads(str(a["head" if name == HEAD else "linears"]))
        if isinstance(module, torch.nn.Linear) and activation != "f32":
            quantize = functools.partial(fake_quantized, torch, activation=activation, group=group)
            module.register_forward_pre_hook(lambda _, inputs, quantize=quantize: (quantize(inputs[0]),))

    def losses(tokens: np.ndarray, scored: int) -> np.ndarray:
        ids = torch.from_numpy(tokens.astype(np.int64))
        logits = model(ids[None, :-1]).logits[0, -scored:]
        return torch.nn.functional.cross_entropy(logits.double(), ids[-scored:], reduction="none").numpy()

    def run() -> np.ndarray:
        windows = np.split(a["tokens"], np.cumsum(a["lengths"])[:-1])
        with torch.inference_mode():
            return np.concatenate([losses(w, int(n)) for w, n in zip(windows, a["scored"], strict=True)])

    return run
