"""The face of Heddle in Python: a model that generates, chats, streams, and gives logits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import Prompt, about, option_list, params_list, progress_bar, prompt_list, template_text
from .beam import BeamSearchParams, Search
from .embed import Poolings
from .offline import feeder
from .opening import Quant, find_artifact, identity, pool_bytes, swap_bytes
from .prompts import Messages, Prompts, needed
from .runtime.artifact import is_artifact, open_artifact
from .runtime.engine import Engine
from .runtime.errors import RequestError
from .runtime.model import ModelRunner
from .runtime.outputs import RequestOutput, StepOutput
from .runtime.request import Receiver, Request
from .runtime.sampling import SamplingParams, check_keywords
from .runtime.stats import EngineMetrics, EngineStats
from .runtime.tokenizer import TOKENIZER_FILE, Tokenizer

Each = Any
"""An option of a request: one value for all, or a list or tuple with one for each prompt."""


class LLM:
    """A model, ready to run. One thread at a time may use it; `AsyncLLM` serves many.

    path: a checkpoint of Hugging Face, GGUF or MLC (compiled once; the build cache keeps the artifact) or an artifact directory.
    quant: a quantization scheme ("w4a8"), or a map from sites to schemes ({"*": "w4a8", "lm_head": "w8a16"}); None keeps
        the weights as they are stored. docs/quantization.md has the schemes.
    threads: threads of compiled code; None takes TVM_NUM_THREADS, else the physical cores.
    dtype: "float32", "float16" or "bfloat16" stores all matrices so; None keeps the checkpoint's types.
    kv_dtype: the type of the KV cache (float32, float16, bfloat16 or int8); None takes that of the weights.
    max_tokens, max_seqs: the most tokens and sequences of one step, fixed when compiling.
    context_length: a shorter context than the model's.
    kv_memory: size of the KV pool in bytes, or as text ("2GB", "512MiB", or "50%" of the memory that weights leave); None
        takes two full contexts.
    chunk, step_tokens: tokens of one prompt, and of all requests, that a step serves at most; with fewer the tokens of others
        come sooner beside a long prompt, with more throughput is a little higher. None: all that a step can take.
    policy: who goes first: "fcfs" (as they come), "priority" (the smaller number first), or "fair" (among tenants).
    preemption: what becomes of a request whose pages others need: "recompute" computes it again later, "swap" keeps it in
        host memory of `swap_memory` bytes (or text).
    prefix_cache: whether prompts that begin alike share what is computed of it.
    max_waiting: requests that may wait in the engine; the calls here hold back what is more. None: any number.
    trace: a file for the trace that `heddle replay` reads; it holds the tokens of all prompts and texts.
    chat_template: the text of a template, or its file, instead of the model's own.
    random_weights: a seed for random weights instead of the checkpoint's (a config.json is enough then).
    model_file: a Python file that registers the model's architecture, where Heddle does not know it (docs/tutorial_family.md).
    target: the target profile to compile a checkpoint for, or which of an artifact's to run; "native" is the best for this CPU.
    verify: "quick" hashes the artifact's small files, "full" all.
    progress: called with (what, done, total) while compiling.
    """

    def __init__(
        self,
        path: str | Path,
        quant: Quant = None,
        threads: int | None = None,
        *,
        dtype: str | None = None,
        kv_dtype: str | None = None,
        max_tokens: int | None = None,
        max_seqs: int | None = None,
        context_length: int | None = None,
        kv_memory: int | str | None = None,
        chunk: int = 512,
        step_tokens: int | None = None,
        policy: str = "fcfs",
        preemption: str = "recompute",
        swap_memory: int | str | None = None,
        prefix_cache: bool = True,
        max_waiting: int | None = None,
        trace: str | Path | None = None,
        chat_template: str | Path | None = None,
        random_weights: int | None = None,
        model_file: str | Path | None = None,
        target: str = "native",
        verify: str = "quick",
        progress: Callable[[str, int, int], None] | None = None,
        **unknown: Any,
    ) -> None:
        options = [name for name in LLM.__init__.__annotations__ if name not in ("unknown", "return")]
        check_keywords("LLM", unknown, options)
        swap, template = swap_bytes(preemption, swap_memory), template_text(chat_template)
        fixed: dict[str, Any] = {"dtype": dtype, "kv_dtype": kv_dtype, "max_tokens": max_tokens, "max_seqs": max_seqs}
        fixed |= {"quant": quant, "model_file": model_file}
        self.artifact = find_artifact(Path(path), fixed, random_weights, verify, progress, target)
        has_tokenizer = self.artifact.file(TOKENIZER_FILE).is_file()
        self.tokenizer = Tokenizer.load(self.artifact.path, template) if has_tokenizer else None
        pool = pool_bytes(self.artifact, kv_memory, context_length)
        self.runner = ModelRunner(self.artifact, kv_bytes=pool, threads=threads)
        self.engine = Engine(
            self.runner,
            self.tokenizer,
            eos_token_ids=self.artifact.manifest.generation.get("eos_token_ids") or None,
            chunk=chunk,
            step_tokens=step_tokens,
            context_length=context_length,
            policy=policy,
            preemption=preemption,
            max_waiting=max_waiting,
            prefix_cache=prefix_cache,
            namespace=identity(self.artifact),
            swap_bytes=swap,
            trace=trace,
        )
        self.prompts = Prompts(self.engine, self.tokenizer, self.artifact.path)
        self.poolings = Poolings.load(self.artifact)
        self._sinks: dict[str, Callable[[StepOutput], None]] = {}

    @property
    def stats(self) -> EngineStats:
        """Tokens and seconds of all steps so far."""
        return self.engine.stats

    @property
    def metrics(self) -> EngineMetrics:
        """What the engine does now and has done so far; how long a request took is in its `RequestOutput.metrics`."""
        return EngineMetrics.of(self.engine)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        progress: bool = False,
        *,
        priority: Each = 0,
        tenant: Each = "",
        timeout: Each = None,
        salt: Each = "",
        order: str = "given",
    ) -> list[RequestOutput]:
        """Go on from each prompt (a text, or token ids); the outputs are in the order of the prompts.

        `sampling_params` stand for all prompts or are one per prompt; None takes the defaults. `progress` shows a bar.
        priority, tenant, timeout (seconds in the engine) and salt (who shares cached prefixes with whom): a value for all,
        or a list of one per prompt. order="shared" serves prompts with a common prefix together (see offline.py): the same
        texts sooner. RequestError, naming the prompt, is raised before any work starts.
        """
        given = prompt_list(prompts)
        params = params_list(sampling_params, len(given))
        options = option_list(len(given), priority=priority, tenant=tenant, timeout=timeout, salt=salt)
        requests = []
        for i, prompt in enumerate(given):
            with about(f"prompts[{i}]"):
                requests.append(self.prompts.text(prompt, params[i], **options[i]))
        return self._complete(requests, progress, order)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        progress: bool = False,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        priority: Each = 0,
        tenant: Each = "",
        timeout: Each = None,
        salt: Each = "",
        order: str = "given",
        **template_variables: Any,
    ) -> list[RequestOutput]:
        """The model's next turn in a conversation, or in each of several; the other options are those of `generate`.

        A conversation is a list of `{"role": ..., "content": ...}`; it becomes a text by the model's chat template,
        which also gets `tools` (JSON schemas of functions that the model may call) and `template_variables`. RequestError
        for a malformed conversation and for tools that the template does not show; TokenizerError without a template.
        """
        several = bool(messages) and not isinstance(messages[0], Mapping)
        conversations: list[Any] = list(messages) if several else [messages]
        params = params_list(sampling_params, len(conversations))
        options = option_list(len(conversations), priority=priority, tenant=tenant, timeout=timeout, salt=salt)
        requests = []
        for i, talk in enumerate(conversations):
            with about(f"conversations[{i}]" if several else ""):
                requests.append(self.prompts.turn(talk, params[i], tools, template_variables, **options[i]))
        return self._complete(requests, progress, order)

    def beam_search(
        self, prompts: Prompt | Sequence[Prompt], params: BeamSearchParams, progress: bool = False
    ) -> list[RequestOutput]:
        """The `params.beam_width` most likely continuations of each prompt, the best first (see beam.py).

        `CompletionOutput.cumulative_logprob` is the log probability of all its tokens. All beams are served together.
        """
        given, searches = prompt_list(prompts), []
        for i, prompt in enumerate(given):
            with about(f"prompts[{i}]"):
                searches.append(Search(self.engine, self.prompts.token_ids(prompt), params))
        with progress_bar(len(searches), progress) as advance:
            left = searches
            while left:
                self._complete([request for search in left for request in search.requests()], False)
                going = [search for search in left if not search.move_on()]
                for _ in range(len(left) - len(going)):
                    advance()
                left = going
        return [
            search.output(self.tokenizer, prompt if isinstance(prompt, str) else None)
            for search, prompt in zip(searches, given, strict=True)
        ]

    def stream(self, prompt: Prompt, sampling_params: SamplingParams | None = None) -> Iterator[str]:
        """The pieces of the text as they come; joined they are the text that `generate` gives.

        RequestError is raised here, before the first piece is asked for. Closing the iterator aborts the request.
        """
        return self._stream(self.prompts.text(prompt, sampling_params))

    def forward(self, token_ids: Sequence[Sequence[int] | np.ndarray], chunk: int | None = None) -> list[np.ndarray]:
        """Logits float32[n_i, vocab] of every position of every sequence.

        All sequences are prefilled together as one ragged batch; `chunk` is the most tokens of one sequence in a step
        and does not change a bit of the result. RequestError names the sequence that the model cannot take.
        """
        if isinstance(token_ids, (str, bytes)) or any(
            isinstance(ids, (str, bytes, int, np.integer)) for ids in token_ids
        ):
            raise RequestError("forward takes a list of lists of token ids", fix="encode texts by llm.tokenizer.encode")
        requests: list[Request] = []
        logits: list[np.ndarray] = []

        def receiver(i: int) -> Receiver:
            def receive(position: int, rows: np.ndarray) -> None:
                logits[i][position : position + len(rows)] = rows

            return receive

        for i, ids in enumerate(token_ids):
            with about(f"token_ids[{i}]"):
                requests.append(self.engine.prepare_scoring(ids, receiver(i), chunk=chunk))
        logits += [np.empty((request.num_prompt, self.runner.info.vocab_size), np.float32) for request in requests]
        self._complete(requests, False)
        return logits

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        pooling: str | None = None,
        normalize: bool | None = None,
        progress: bool = False,
        *,
        truncate_prompt_tokens: int | None = None,
    ) -> np.ndarray:
        """Embeddings float32[n, width] of texts or token ids: the final hidden states, pooled.

        pooling: the "mean" over all tokens, the first token's ("cls"), the "last" token's, or BERT's "pooler" where the model has
        one. `normalize` scales each to length 1. None: as the model's makers say (the files of sentence-transformers), else the
        mean, of length 1. truncate_prompt_tokens: cut what is longer; -1 cuts at the length that the makers say, else at the
        longest that the model takes. None refuses it.
        """
        pools = []
        requests = []
        truncate = self.poolings.truncation(truncate_prompt_tokens, self.engine.admission.longest_text)
        for i, prompt in enumerate(prompt_list(prompts)):
            with about(f"prompts[{i}]"):
                pools.append(self.poolings.pool(pooling, normalize))
                requests.append(self.prompts.embedding(prompt, pools[-1], truncate))
        self._complete(requests, progress)
        width = self.poolings.width(pooling)
        return np.array([pool.vector() for pool in pools], np.float32).reshape(len(pools), width)

    def stream_logits(
        self, token_ids: Sequence[int] | np.ndarray, first: int = 0, chunk: int | None = None
    ) -> Generator[tuple[int, np.ndarray], None, None]:
        """The logits of one sequence from position `first` on, in pieces: (position, float32[r, vocab]), r up to `chunk`.

        The same bits as `forward` gives, without holding all of them: at 150 thousand tokens of vocabulary, 2048 positions
        are 1.2 GB. RequestError is raised here. Closing the iterator aborts the request.
        """
        pieces: deque[tuple[int, np.ndarray]] = deque()

        def keep(position: int, logits: np.ndarray) -> None:
            pieces.append((position, logits.copy()))  # another call's step may overwrite them before they are taken

        return self._stream_logits(self.engine.prepare_scoring(token_ids, keep, first=first, chunk=chunk), pieces)

    def needed_tokenizer(self) -> Tokenizer:
        """The model's tokenizer; TokenizerError where the artifact has none."""
        return needed(self.tokenizer, self.artifact.path)

    # How requests get through the engine.

    def _complete(self, requests: list[Request], progress: bool, order: str = "given") -> list[RequestOutput]:
        """Run `requests` to their ends. Where one fails its error is raised, and the others are aborted."""
        done: dict[str, RequestOutput] = {}
        errors: list[Exception] = []
        feed = feeder(order, requests, self.engine)

        def take(step: StepOutput) -> None:
            if step.error is not None:
                errors.append(step.error)
            elif step.output is not None:
                done[step.request_id] = step.output
                advance()

        try:
            with progress_bar(len(requests), progress) as advance:
                while len(done) < len(requests):
                    for request in feed.ready():
                        self._sinks[self.engine.add(request)] = take
                    self._step()
                    if errors:
                        raise errors[0]
        finally:
            self._forget(requests)
        return [done[request.request_id] for request in requests]

    def _stream(self, request: Request) -> Iterator[str]:
        steps: deque[StepOutput] = deque()
        try:
            self._sinks[self.engine.add(request)] = steps.append
            while True:
                while not steps:
                    self._step()
                step = steps.popleft()
                if step.error is not None:
                    raise step.error
                if step.text:
                    yield step.text
                if step.finished:
                    return
        finally:
            self._forget([request])

    def _stream_logits(
        self, request: Request, pieces: deque[tuple[int, np.ndarray]]
    ) -> Generator[tuple[int, np.ndarray], None, None]:
        ends: list[StepOutput] = []
        try:
            self._sinks[self.engine.add(request)] = ends.append
            while True:
                while pieces:
                    yield pieces.popleft()
                if ends and ends[0].error is not None:
                    raise ends[0].error
                if ends:
                    return
                self._step()
        finally:
            self._forget([request])

    def _step(self) -> None:
        """One step of the engine, which may serve several calls: a stream can be open while generate() runs."""
        for step in self.engine.step():
            if sink := self._sinks.get(step.request_id):
                sink(step)

    def _forget(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self._sinks.pop(request.request_id, None)
            self.engine.abort(request.request_id)


def load(path: str | Path, **options: Any) -> LLM:
    """An LLM of an artifact directory; nothing is ever compiled. `options` are LLM's; ArtifactError if it is none."""
    if not is_artifact(path):
        open_artifact(path)  # raises, and says what is missing
    return LLM(path, **options)
