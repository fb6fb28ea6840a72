"""The last part of a step: requests take over what was computed, and the outputs that come of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .batch import Batch, Part
from .errors import DeadlineError, HeddleError, RequestError
from .group import Group
from .outputs import CompletionOutput, Logprob, LogprobTable, StepOutput
from .request import Request
from .sampler import NO_TOKEN, TokenLogprobs

if TYPE_CHECKING:
    from .engine import Engine


class Committer:
    """Hands a step's results over, request by request: what goes wrong with one is its own end only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._now = 0.0
        self.kept: list[StepOutput] = []

    def commit(self, batch: Batch, expired: tuple[Request, ...], now: float) -> list[StepOutput]:
        """All outputs of a step that began at `now`, and those that an interrupted one could not hand out.

        An interrupt ends the request that it hits, whose state nobody knows; those behind it have not had the step.
        """
        self._now = now
        outputs, self.kept = self.kept, []
        for request, part in [*((part.request, part) for part in batch.parts), *((r, None) for r in expired)]:
            group = request.group
            if not group.live:  # a receiver aborted it, or another sample of it has failed
                continue
            try:
                if part is None:
                    self._expire(group, outputs)
                else:
                    self._take(part, batch, outputs)
            except Exception as error:  # whatever is wrong with this request, the others go on
                outputs.append(self.fail(group, error))
            except BaseException:
                outputs.append(self.fail(group, HeddleError(f"request {request.request_id!r} was interrupted")))
                self.kept = outputs
                raise
        return outputs

    def fail(self, group: Group, error: Exception) -> StepOutput:
        """End a whole group by an error."""
        self._engine.drop(group)
        return StepOutput(group.lead.request_id, error=error)

    def _take(self, part: Part, batch: Batch, outputs: list[StepOutput]) -> None:
        """What one request got of the step."""
        engine, request, end = self._engine, part.request, part.start + part.rows
        if request.first_scheduled is None:
            request.first_scheduled = self._now
        request.computed = end
        engine.served(request, part.start, end)
        full = end // request.page_tokens
        if full > request.published and not request.first_page:
            engine.kv.publish(request.tokens, request.pages, request.salt, end)
            request.published = full
        if window := engine.runner.info.window:
            first = (end + 1 - window) // request.page_tokens  # of what the next row sees
            if first > request.first_page:
                engine.kv.release_before(request.pages, first)
                request.first_page = first
        if request.receive is not None:
            results = batch.hidden if request.pooling else batch.logits
            if part.wanted:
                request.receive(end - part.wanted, results[part.first : part.first + part.wanted])
                request.scored = end
            if request.pending == 0 and request.group.live:
                outputs.append(self._end(request, None))
            return
        if part.scores:
            request.prompt_logprobs += [self._table(made, request) for made in part.scores]
            request.scored += len(part.scores)
        if any(token == NO_TOKEN for token, _ in part.picks):
            raise _no_token(request, batch.logits[part.first + part.wanted - 1])
        if part.picks and not request.group.forked:
            self._fork(request, part, outputs)
        elif part.picks:
            outputs.append(self._accept(request, *part.picks[0]))

    def _fork(self, lead: Request, part: Part, outputs: list[StepOutput]) -> None:
        """The prompt is computed: every sample gets its first token, and goes on by itself.

        Samples share the prompt's full pages. One that finds no place waits; its prompt is in the prefix cache then.
        """
        engine, group = self._engine, lead.group
        group.samples += [lead.sample(i) for i in range(1, group.width)]
        group.forked = True
        for sample in group.samples[1:]:
            rest = lead.computed % lead.page_tokens
            place = len(engine.running) < engine.limits.max_seqs and engine.kv.num_free >= bool(rest)
            if place:
                sample.add_pages(engine.kv.fork(lead.pages, lead.computed))
                sample.computed, sample.published = lead.computed, lead.published
                sample.first_page = lead.first_page
            engine.enqueue(sample, running=place)
            group.live.append(sample)
        for sample, pick in zip(group.samples, part.picks, strict=True):
            outputs.append(self._accept(sample, *pick))

    def _accept(self, request: Request, token: int, logprobs: TokenLogprobs | None) -> StepOutput:
        """Append a chosen token and decide whether it was the last."""
        lead, table = request.group.lead, None
        if lead.first_token is None:
            lead.first_token = self._engine.clock()
        if logprobs is not None:
            request.cumulative_logprob += logprobs.logprob
            if request.params is not None and request.params.logprobs is not None:
                table = [self._table(logprobs, request)]
                request.logprobs += table
        tokens: list[int] = []
        text, reason, cause = "", None, None
        waiting = [token]
        while reason is None and len(tokens) < len(waiting):
            tokens.append(waiting[len(tokens)])
            more, reason, cause = self._append(request, tokens[-1])
            text += more
            if reason is None and tokens == [token] and request.matcher and request.jumps:
                waiting += request.matcher.forced()
        if reason is None:
            if not request.group.streams:
                return StepOutput(request.request_id, index=request.index)
            return StepOutput(request.request_id, text, tuple(tokens), index=request.index, logprobs=table)
        return self._end(request, reason, cause, text, tuple(tokens), table)

    def _append(self, request: Request, token: int) -> tuple[str, str | None, str | int | None]:
        """Append one token; returns the text that is new, and the reason and cause if the text ends here."""
        request.append(token)
        text, reason, texts = "", None, request.detokenizer
        cause: str | int | None = None
        if token in request.end_ids:
            reason = "stop"
            cause = token if request.params is not None and token in (request.params.stop_token_ids or ()) else None
        else:
            text = texts.push(token) if texts else ""
            if request.matcher:
                request.matcher.accept(token)
                reason = "stop" if request.matcher.finished else None
            if reason is None and request.num_tokens == request.max_length:
                reason = "length"
        if texts and reason and not texts.found:
            text += texts.finish()
        if texts and texts.found:
            reason, cause = "stop", texts.found
        return text, reason, cause

    def _expire(self, group: Group, outputs: list[StepOutput]) -> None:
        """End a group whose deadline has passed, with what it has."""
        lead = group.lead
        if lead.receive is not None:
            error = DeadlineError(
                f"request {lead.request_id!r} was not finished in {lead.timeout:g} seconds",
                f"{lead.computed} of its {lead.num_tokens} tokens are computed",
                "give it more time, or the engine less to do",
            )
            outputs.append(self.fail(group, error))
        for request in list(group.live):
            texts = request.detokenizer
            text = texts.finish() if texts and not texts.found else ""
            outputs.append(self._end(request, "timeout", text=text))

    def _end(
        self,
        request: Request,
        reason: str | None,
        cause: str | int | None = None,
        text: str = "",
        tokens: tuple[int, ...] = (),
        table: list[LogprobTable] | None = None,
    ) -> StepOutput:
        """The last output of a request; of its whole group too, where no other sample is unfinished."""
        engine, group, params, completion = self._engine, request.group, request.params, None
        if params is not None and reason is not None:
            ranked = params.logprobs is not None or not group.streams
            completion = CompletionOutput(
                request.index,
                request.detokenizer.text if request.detokenizer else "",
                tuple(request.generated.tolist()),
                reason,
                cause,
                request.cumulative_logprob if ranked else None,
                request.logprobs if params.logprobs is not None else None,
            )
        engine.remove(request)
        group.end(request, completion)
        output = None
        if not group.live:
            engine.forget(group)
            output = group.output(engine.clock())
        if not group.streams:
            text, tokens, table = "", (), None
        return StepOutput(request.request_id, text, tokens, output, None, request.index, reason, table)

    def _table(self, made: TokenLogprobs | None, request: Request) -> LogprobTable:
        """The token of one position and the most likely ones, by id."""
        if made is None:
            raise _not_finite(request, request.scored)
        decode = self._text
        table = {made.token: Logprob(made.logprob, made.rank, decode(made.token))}
        for i, (token, logprob) in enumerate(zip(made.top_ids.tolist(), made.top_logprobs.tolist(), strict=True)):
            table.setdefault(token, Logprob(logprob, i + 1, decode(token)))
        return table

    def _text(self, token: int) -> str | None:
        tokenizer = self._engine.tokenizer
        return None if tokenizer is None else tokenizer.decode([token], skip_special_tokens=False)


def _no_token(request: Request, logits: np.ndarray) -> HeddleError:
    """Why no token could be chosen by the row float32[vocab] of logits, which is masked where there is a grammar."""
    position, largest = request.num_tokens - 1, logits.max()  # NaN if there is one
    masked = request.matcher is not None and largest == -np.inf
    if not (np.isfinite(largest) or masked):
        return _not_finite(request, position)
    return RequestError(
        f"no token is left for request {request.request_id!r} at position {position}",
        "its parameters forbid all that they allow",
        "check structured and allowed_token_ids against bad_token_ids, bad_words and min_tokens",
    )


def _not_finite(request: Request, position: int) -> HeddleError:
    return HeddleError(
        f"the logits of request {request.request_id!r} at position {position} are not finite",
        "no token can be chosen from them",
        "check the weights of the model; weights or activations may overflow their type",
    )
