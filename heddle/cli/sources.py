"""Where a terminal chat gets its answers from: a model in this process, or a server with OpenAI's interface."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..runtime.errors import HeddleError

if TYPE_CHECKING:
    import aiohttp

    from ..async_llm import AsyncLLM

Messages = Sequence[Mapping[str, str]]
CONNECT_SECONDS = 10.0
AT_ONCE = 0.05
"""Seconds below which the arrivals of an answer say more of buffers on the way than of the model."""


@dataclasses.dataclass
class Answer:
    """One answer: what is known of it, while it comes and after. Times are seconds since it was asked for."""

    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int = 0
    first: float | None = None
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens after the first one over their time; of an answer that came all at once, all over the whole time."""
        if self.first is None or not self.completion_tokens:
            return None
        spent = self.seconds - self.first
        return self.completion_tokens / self.seconds if spent < AT_ONCE else (self.completion_tokens - 1) / spent


class Source(Protocol):
    """Gives answers."""

    name: str

    def answer(self, messages: Messages, sampling: Mapping[str, Any], answer: Answer) -> AsyncGenerator[str, None]:
        """The pieces of the text as they come; everything else that is learned goes to `answer`.

        `sampling` has fields of `SamplingParams`. Closing the generator, or cancelling its task, stops the model.
        """

    async def close(self) -> None:
        """Let go of what it holds."""


class Local:
    """A model in this process."""

    def __init__(self, model: AsyncLLM, name: str) -> None:
        self._model, self.name = model, name

    async def answer(
        self, messages: Messages, sampling: Mapping[str, Any], answer: Answer
    ) -> AsyncGenerator[str, None]:
        """As `Source` says."""
        from ..runtime.sampling import SamplingParams

        params = SamplingParams(**{"max_tokens": None, **sampling})  # the default of 16 is for completions
        stream = self._model.chat(messages, params, output_kind="delta")
        async with contextlib.aclosing(stream) as outputs:
            async for output in outputs:
                (piece,) = output.outputs
                answer.prompt_tokens = len(output.prompt_token_ids)
                answer.completion_tokens += len(piece.token_ids)
                answer.finish_reason = piece.finish_reason
                if output.finished:
                    answer.cached_tokens = output.num_cached_tokens
                yield piece.text

    async def close(self) -> None:
        """As `Source` says."""
        self._model.shutdown()


class Remote:
    """A server. Use it in one event loop."""

    def __init__(self, url: str, name: str | None = None, api_key: str | None = None) -> None:
        """`url` may end with /v1 or not; without `name` the server's first model answers (see `find_model`)."""
        self._base = url.rstrip("/").removesuffix("/v1")
        self.name = name or ""
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._open: aiohttp.ClientSession | None = None

    def _session(self) -> aiohttp.ClientSession:
        try:
            import aiohttp
        except ImportError as error:
            raise HeddleError(
                "chatting with a server needs the package aiohttp", fix="pip install 'heddle[serve]'"
            ) from error
        if self._open is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
            self._open = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        return self._open

    @contextlib.asynccontextmanager
    async def _ask(self, method: str, path: str, body: Any = None) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to a request; HeddleError where there is none or the server refuses."""
        session = self._session()
        import aiohttp

        try:
            async with session.request(method, self._base + path, json=body) as response:
                if response.status != 200:
                    raise refusal(self._base, response.status, await response.text())
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            raise HeddleError(
                f"no answer from {self._base}: {str(error) or type(error).__name__}",
                "nothing listens there, or the connection broke",
                "start the server (heddle serve MODEL), and check host and port",
            ) from error

    async def find_model(self) -> None:
        """Ask the server which models it has, and take the first, where no name was given."""
        async with self._ask("GET", "/v1/models") as response:
            try:
                names = [str(model["id"]) for model in json.loads(await response.text())["data"]]
            except (ValueError, TypeError, KeyError):
                names = []  # whatever it is, it is no list of models
        if not names:
            raise HeddleError(
                f"{self._base} lists no models", "it does not speak OpenAI's interface", "check host, port and path"
            )
        self.name = self.name or names[0]

    async def answer(
        self, messages: Messages, sampling: Mapping[str, Any], answer: Answer
    ) -> AsyncGenerator[str, None]:
        """As `Source` says."""
        body = {
            "model": self.name,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            **sampling,
        }
        async with self._ask("POST", "/v1/chat/completions", body) as response:
            async for line in response.content:
                data = line.decode(errors="replace").strip()
                if not data.startswith("data:"):
                    continue
                data = data.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                chunk = read_object(self._base, data)
                if "error" in chunk:
                    raise refusal(self._base, response.status, data)
                if usage := chunk.get("usage"):
                    answer.prompt_tokens = usage.get("prompt_tokens")
                    answer.completion_tokens = usage.get("completion_tokens") or answer.completion_tokens
                    answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
                for choice in chunk.get("choices") or ():
                    answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
                    if text := (choice.get("delta") or {}).get("content"):
                        yield text

    async def close(self) -> None:
        """As `Source` says."""
        if self._open is not None:
            await self._open.close()


def read_object(base: str, text: str) -> dict[str, Any]:
    """A JSON object of an answer; HeddleError for anything else."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise HeddleError(
            f"{base} answered with what is no event: {text[:80]!r}",
            "it does not speak OpenAI's interface, or something stands between",
        )
    return found


def refusal(base: str, status: int, text: str) -> HeddleError:
    """The error of a server's error object, or of whatever else it answered."""
    try:
        error = json.loads(text)["error"]
        message = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, TypeError, KeyError):
        message = text.strip()[:200] or "no explanation"
    fix = "give the key by --api-key or HEDDLE_API_KEY" if status == 401 else ""
    return HeddleError(f"{base} refused ({status}): {message}" if status != 200 else f"{base}: {message}", fix=fix)


def open_local(path: Path, **options: Any) -> Local:
    """The model at `path`; `options` are those of `AsyncLLM`."""
    from ..async_llm import AsyncLLM

    return Local(AsyncLLM(path, **options), path.name)
