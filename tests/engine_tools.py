"""Engines on the null device: what requests must give, by definition, and how to run them to their ends."""

from __future__ import annotations

import numpy as np

from heddle.runtime.engine import Engine
from heddle.runtime.null_runner import history_logits
from heddle.runtime.outputs import CompletionOutput, RequestOutput
from heddle.runtime.request import Receiver
from heddle.runtime.sampler import Draw, sample, sample_seed
from heddle.runtime.sampling import SamplingParams


def expected_tokens(
    prompt: list[int], params: SamplingParams, length: int, vocab: int = 97, *, index: int = 0, window: int = 0
) -> list[int]:
    """The tokens of sample `index` by definition: one sequence, no cache, no engine."""
    tokens = list(prompt)
    seed = sample_seed(params.seed or 0, index)
    while len(tokens) < length:
        logits = history_logits(np.array(tokens), vocab, window)[-1:]
        tokens += sample(logits, [Draw(params, seed, len(tokens), np.array(tokens, np.int32), len(prompt))]).tolist()
    return tokens[len(prompt) :]


def finish(engine: Engine, *, begun: bool = False) -> dict[str, RequestOutput]:
    """Step until there is nothing to do, checking integrity and (unless some steps were `begun` before) streams."""
    done: dict[str, RequestOutput] = {}
    texts: dict[str, str] = {}
    tokens: dict[str, list[int]] = {}
    while engine.has_work:
        for step in engine.step():
            assert step.error is None
            assert step.request_id not in done
            texts[step.request_id] = texts.get(step.request_id, "") + step.text
            tokens.setdefault(step.request_id, []).extend(step.token_ids)
            if step.output is not None:
                done[step.request_id] = step.output
        engine.check_integrity()
    for name, output in done.items():
        for completion in () if begun else output.outputs:
            assert completion.text == texts[name]
            assert list(completion.token_ids) == tokens[name]
    return done


def completion(engine: Engine, prompt: list[int], params: SamplingParams) -> CompletionOutput:
    name = engine.add_request(prompt, params)
    return finish(engine)[name].outputs[0]


def collect(pieces: list[np.ndarray]) -> Receiver:
    """Puts logits behind `pieces`, which hold those of all positions before; none may come twice or be left out."""

    def receive(position: int, logits: np.ndarray) -> None:
        assert position == sum(map(len, pieces))
        assert len(logits)
        pieces.append(logits.copy())

    return receive
