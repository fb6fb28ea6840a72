"""What the server needs of a model. `heddle.AsyncLLM` is one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..errors import HeddleError
from ..outputs import RequestOutput
from ..sampling import SamplingParams
from ..stats import EngineMetrics
from ..tokenizer import Tokenizer

Messages = Sequence[Mapping[str, Any]]


class Model(Protocol):
    """Serves any number of requests at once. What is not `async` may be called by any thread."""

    @property
    def tokenizer(self) -> Tokenizer:
        """TokenizerError where there is none."""

    @property
    def metrics(self) -> EngineMetrics:
        """What the engine does now and has done so far."""

    @property
    def context_length(self) -> int:
        """Tokens of a prompt with its answer, at most."""

    @property
    def failure(self) -> HeddleError | None:
        """Why nothing is served any more; None while requests are taken."""

    def conversation(
        self, messages: Messages, tools: Sequence[Mapping[str, Any]] | None = None, **variables: Any
    ) -> str:
        """The messages by the model's chat template, which gets `tools` and `variables` as well."""

    def generate(
        self,
        prompt: Sequence[int],
        sampling_params: SamplingParams,
        *,
        output_kind: str,
        request_id: str | None,
        priority: int,
        tenant: str,
        timeout: float | None,
        salt: str,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Check a request and get it ready, which RequestError refuses; the iterator sends it, and aborts it when closed."""

    def text_length(self, truncate_prompt_tokens: int | None) -> int | None:
        """The tokens at which texts are to be cut for their embeddings; -1 asks for the model's own length."""

    async def embed(
        self, prompt: Sequence[int], pooling: str | None = None, normalize: bool | None = None
    ) -> np.ndarray:
        """The embedding float32[width] of token ids; None is the model's own way."""

    def shutdown(self, drain: bool = False) -> None:
        """Stop serving; blocks. Open requests end with AbortedError, or with `drain` when they are finished."""
