"""A client of any server with OpenAI's interface, which notes when each part of an answer came."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ..runtime.errors import HeddleError
from .prompts import Ask

try:
    import aiohttp
except ImportError as error:
    raise HeddleError(
        "aiohttp is not installed", "servers are measured with it", "pip install 'heddle[serve]'"
    ) from error

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


@dataclasses.dataclass
class Answer:
    """What came of one request; seconds of `time.perf_counter`.

    due, sent: when it should have been sent and was. first, last: when the first and the last part of the answer came.
    gaps: seconds between its parts. Tokens are the server's own count (`usage`), or the number of parts where it gives none.
    """

    due: float
    sent: float = 0.0
    first: float | None = None
    last: float = 0.0
    gaps: list[float] = dataclasses.field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    counted: bool = False
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it was answered in full."""
        return self.error is None

    @property
    def ttft(self) -> float:
        """Seconds to the first token."""
        return (self.last if self.first is None else self.first) - self.sent

    @property
    def latency(self) -> float:
        """Seconds to the last token."""
        return self.last - self.sent

    @property
    def tpot(self) -> float | None:
        """Seconds of each token after the first, None where there is one at most."""
        return (self.latency - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else None


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where and how to ask. `extra` goes into every request's body, last; `timeout` is of a whole request, in seconds."""

    base_url: str
    kind: str = "completions"
    model: str = ""
    api_key: str = ""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ignore_eos: bool = False
    timeout: float = 6 * 3600.0

    @property
    def root(self) -> str:
        """The server's address without /v1, with which people may or may not give it."""
        return self.base_url.rstrip("/").removesuffix("/v1")

    def body(self, ask: Ask) -> dict[str, Any]:
        """The request for a prompt."""
        body: dict[str, Any] = {"model": self.model, "stream": True, "stream_options": {"include_usage": True}}
        if self.kind == "chat":
            prompt = ask.prompt
            body["messages"] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            body["max_completion_tokens"] = ask.max_tokens
        elif isinstance(ask.prompt, str):
            body |= {"prompt": ask.prompt, "max_tokens": ask.max_tokens}
        else:
            raise HeddleError(
                "a conversation cannot be asked of the completions endpoint", fix="measure --endpoint chat"
            )
        body["temperature"] = 0.0
        if self.ignore_eos:
            body["ignore_eos"] = True
        return body | dict(self.extra)


class Client:
    """One session with a server, for any number of requests at a time. Use it as a context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._url = endpoint.root + PATHS[endpoint.kind]

    async def __aenter__(self) -> Client:
        headers = dict(self._endpoint.headers)
        if self._endpoint.api_key:
            headers["Authorization"] = f"Bearer {self._endpoint.api_key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._endpoint.timeout),
            headers=headers,
            read_bufsize=1 << 20,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def models(self) -> list[str]:
        """The models that the server has. HeddleError where it does not say."""
        url = f"{self._endpoint.root}/v1/models"
        try:
            async with self._session.get(url) as response:
                text = await response.text()
                if response.status != 200:
                    raise ValueError(f"{response.status}: {text[:200]}")
                return [str(entry["id"]) for entry in json.loads(text)["data"]]
        except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as error:
            raise HeddleError(
                f"{url} does not answer with a list of models",
                f"{type(error).__name__}: {error}",
                "check that a server runs there, its --base-url and --api-key, or name the model by --model",
            ) from error

    async def ask(self, ask: Ask, due: float) -> Answer:
        """Send a request and read its answer to the end. What goes wrong is the answer's `error`."""
        answer = Answer(due)
        data = json.dumps(self._endpoint.body(ask)).encode()
        answer.sent = answer.last = time.perf_counter()
        try:
            headers = {"Content-Type": "application/json"}
            async with self._session.post(self._url, data=data, headers=headers) as response:
                if response.status != 200:
                    raise ValueError(f"{response.status}: {(await response.text())[:300]}")
                kind = response.headers.get("Content-Type", "")
                if "text/event-stream" not in kind:
                    raise ValueError(f"the answer is no stream of events but {kind!r}")
                parts = await self._read(response, answer)
            if not answer.output_tokens:
                answer.output_tokens, answer.counted = parts, True
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            answer.error = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return answer

    async def _read(self, response: aiohttp.ClientResponse, answer: Answer) -> int:
        """Note the parts of a stream; returns how many had text. ValueError where it ends too early."""
        parts, ended = 0, False
        async for data in events(response):
            now = time.perf_counter()
            if data == "[DONE]":
                ended = True
                break
            chunk = json.loads(data)
            if error := chunk.get("error"):
                raise ValueError(error.get("message", error) if isinstance(error, dict) else error)
            if usage := chunk.get("usage"):
                answer.prompt_tokens = usage.get("prompt_tokens") or 0
                answer.output_tokens = usage.get("completion_tokens") or 0
            for choice in chunk.get("choices") or ():
                if not has_text(choice):
                    continue
                parts += 1
                if answer.first is None:
                    answer.first = now
                else:
                    answer.gaps.append(now - answer.last)
                answer.last = now
        if not ended:
            raise ValueError("the stream ended without [DONE]")
        if answer.first is None:  # nothing but an end
            answer.last = time.perf_counter()
        return parts


def has_text(choice: Mapping[str, Any]) -> bool:
    """Whether a part of an answer brings any text; the first part of a chat has a role alone, the last one a reason."""
    delta = choice.get("delta")
    if delta is None:
        return bool(choice.get("text"))
    return any(delta.get(name) for name in ("content", "reasoning_content", "reasoning", "tool_calls", "refusal"))


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """The data of server-sent events."""
    data: list[str] = []
    async for raw in response.content:
        line = raw.decode("utf-8").rstrip("\r\n")
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []
