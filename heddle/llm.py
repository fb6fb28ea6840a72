"""The face of Heddle in Python: a model that generates, chats, streams, and gives logits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import Prompt, about, byte_count, params_list, progress_bar, prompt_list
from .runtime.artifact import Artifact, is_artifact, open_artifact
from .runtime.engine import Engine
from .runtime.errors import RequestError
from .runtime.model import ModelRunner
from .runtime.outputs import RequestOutput, StepOutput
from .runtime.request import Receiver, Request, pages_for
from .runtime.sampling import SamplingParams, check_keywords
from .runtime.stats import EngineStats
from .runtime.tokenizer import TOKENIZER_FILE, Tokenizer, TokenizerError

Messages = Sequence[Mapping[str, Any]]
Quant = str | Mapping[str, str] | None


class LLM:
    """A model, ready to run. One thread at a time may use it.

    path: a Hugging Face model directory (compiled once; the build cache keeps the artifact) or an artifact directory.
    quant: a quantization scheme ("w4a8"), or a map from sites to schemes ({"*": "w4a8", "lm_head": "w8a16"}); None keeps
        the weights as they are stored. docs/quantization.md has the schemes.
    threads: threads of compiled code; None takes TVM_NUM_THREADS, else the physical cores.
    dtype: "float32", "float16" or "bfloat16" stores all matrices so; None keeps the checkpoint's types.
    kv_dtype: the type of the KV cache (float32, float16, bfloat16 or int8); None takes that of the weights.
    max_tokens, max_seqs: the most tokens and sequences of one step, fixed when compiling.
    context_length: a shorter context than the model's.
    kv_memory: size of the KV pool in bytes, or as text ("2GB", "512MiB"); None takes two full contexts.
    chunk: tokens of one prompt that a step serves at most.
    random_weights: a seed for random weights instead of the checkpoint's (a config.json is enough then).
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
        random_weights: int | None = None,
        verify: str = "quick",
        progress: Callable[[str, int, int], None] | None = None,
        **unknown: Any,
    ) -> None:
        options = [name for name in LLM.__init__.__annotations__ if name not in ("unknown", "return")]
        check_keywords("LLM", unknown, options)
        fixed = {"dtype": dtype, "kv_dtype": kv_dtype, "max_tokens": max_tokens, "max_seqs": max_seqs}
        self.artifact = find_artifact(Path(path), fixed | {"quant": quant}, random_weights, verify, progress)
        self.tokenizer = Tokenizer.load(self.artifact.path) if self.artifact.file(TOKENIZER_FILE).is_file() else None
        pool = _pool_bytes(self.artifact, kv_memory, context_length)
        self.runner = ModelRunner(self.artifact, kv_bytes=pool, threads=threads)
        ends = self.artifact.manifest.generation.get("eos_token_ids") or None
        self.engine = Engine(
            self.runner, self.tokenizer, eos_token_ids=ends, chunk=chunk, context_length=context_length
        )
        self._sinks: dict[str, Callable[[StepOutput], None]] = {}

    @property
    def stats(self) -> EngineStats:
        """Tokens and seconds of all steps so far."""
        return self.engine.stats

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        progress: bool = False,
    ) -> list[RequestOutput]:
        """Go on from each prompt (a text, or token ids); the outputs are in the order of the prompts.

        `sampling_params` stand for all prompts or are one per prompt; None takes the defaults. `progress` shows a bar.
        RequestError, naming the prompt, is raised before any work starts.
        """
        given = prompt_list(prompts)
        params = params_list(sampling_params, len(given))
        requests = []
        for i, (prompt, wish) in enumerate(zip(given, params, strict=True)):
            with about(f"prompts[{i}]"):
                requests.append(self._prepare(prompt, wish))
        return self._complete(requests, progress)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        progress: bool = False,
        **template_variables: Any,
    ) -> list[RequestOutput]:
        """The model's next turn in a conversation, or in each of several.

        A conversation is a list of `{"role": ..., "content": ...}`; it becomes a text by the model's chat template,
        which also gets `template_variables`. RequestError for a malformed conversation, TokenizerError without a
        template.
        """
        several = bool(messages) and not isinstance(messages[0], Mapping)
        conversations: list[Any] = list(messages) if several else [messages]
        params = params_list(sampling_params, len(conversations))
        tokenizer = self.needed_tokenizer()
        texts = [tokenizer.apply_chat_template(c, **template_variables) for c in conversations]
        return self._complete([self._prepare(t, p, False) for t, p in zip(texts, params, strict=True)], progress)

    def stream(self, prompt: Prompt, sampling_params: SamplingParams | None = None) -> Iterator[str]:
        """The pieces of the text as they come; joined they are the text that `generate` gives.

        RequestError is raised here, before the first piece is asked for. Closing the iterator aborts the request.
        """
        return self._stream(self._prepare(prompt, sampling_params))

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
        if self.tokenizer is None:
            raise TokenizerError(
                f"{self.artifact.path} has no {TOKENIZER_FILE}",
                "the model was compiled without one, so it knows no text",
                "pass token ids, or put the tokenizer's files next to config.json and compile again",
            )
        return self.tokenizer

    # How requests get through the engine.

    def _prepare(self, prompt: Prompt, params: SamplingParams | None, add_special_tokens: bool = True) -> Request:
        if isinstance(prompt, str):
            ids = self.needed_tokenizer().encode(prompt, add_special_tokens)
            return self.engine.prepare(ids, params, prompt=prompt)
        return self.engine.prepare(prompt, params)

    def _complete(self, requests: list[Request], progress: bool) -> list[RequestOutput]:
        """Run `requests` to their ends. Where one fails its error is raised, and the others are aborted."""
        done: dict[str, RequestOutput] = {}
        errors: list[Exception] = []

        def take(step: StepOutput) -> None:
            if step.error is not None:
                errors.append(step.error)
            elif step.output is not None:
                done[step.request_id] = step.output
                advance()

        try:
            with progress_bar(len(requests), progress) as advance:
                for request in requests:
                    self._sinks[self.engine.add(request)] = take
                while len(done) < len(requests):
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


def find_artifact(
    path: Path,
    fixed: dict[str, Any],
    random_weights: int | None = None,
    verify: str = "quick",
    progress: Callable[[str, int, int], None] | None = None,
) -> Artifact:
    """The artifact at `path`, or the one compiled from the checkpoint there.

    `fixed` are options fixed by compiling (None: not asked for); RequestError where an artifact was compiled with others.
    """
    wanted = {name: value for name, value in fixed.items() if value is not None}
    if not is_artifact(path):
        from .compiler.driver import compile_model  # the compiler is needed, and installed, only here

        compiled = compile_model(path, random_weights=random_weights, progress=progress, **wanted)
        return open_artifact(compiled, verify)
    artifact = open_artifact(path, verify)
    model, plan = artifact.manifest.model, artifact.manifest.plan
    found: dict[str, Any] = {"dtype": model.weight_dtype, "kv_dtype": model.kv_dtype}
    found |= {"max_tokens": plan.max_tokens, "max_seqs": plan.max_seqs}
    if quant := wanted.pop("quant", None):
        _check_schemes(artifact, quant)
    if random_weights is not None:
        wanted["random_weights"], found["random_weights"] = random_weights, "not an option of artifacts"
    for name, value in wanted.items():
        if value != found[name]:
            raise RequestError(
                f"{path} was compiled with {name}={found[name]}, asked for is {value!r}",
                "this is fixed when a model is compiled",
                "leave the option out, or compile the model again with it",
            )
    return artifact


def _check_schemes(artifact: Artifact, quant: str | Mapping[str, str]) -> None:
    """RequestError where an artifact was quantized in another way than `quant` says."""
    from .compiler.quant import choose_schemes, names

    manifest = artifact.manifest
    found = manifest.model.schemes
    tables = [set(manifest.function(name).params) for name in ("embed", "head")]
    shared = {"lm_head": "embed"} if tables[0] & tables[1] else {}
    wanted = names(choose_schemes(quant, {site: shared.get(site, site) for site in found}), found)
    for site, scheme in found.items():
        if wanted[site] != scheme:
            raise RequestError(
                f"{artifact.path} was compiled with the scheme {scheme!r} at {site}, asked for is {wanted[site]!r}",
                "this is fixed when a model is compiled",
                "leave quant out, or compile the model again with it",
            )


def _pool_bytes(artifact: Artifact, kv_memory: int | str | None, context_length: int | None) -> int | None:
    """Bytes of the KV pool, None for the runner's default (two full contexts); a shorter context makes it smaller."""
    if kv_memory is not None:
        return byte_count(kv_memory)
    if context_length is None or context_length < 1:  # the engine refuses the latter
        return None
    group = artifact.manifest.caches[0]
    tokens = min(context_length, artifact.manifest.model.context_length)
    return 2 * pages_for(tokens, group.page_tokens) * group.record_bytes
