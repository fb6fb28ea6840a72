"""The thread in which an engine lives: it alone loads the model and calls compiled code, whose workers belong to the calling
thread. Others hand it requests and get what comes of them in their event loops; without work it sleeps on a condition.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .runtime.errors import AbortedError, DeadlineError, EngineDeadError, HeddleError
from .runtime.outputs import StepOutput
from .runtime.request import Request

if TYPE_CHECKING:
    from .llm import LLM

__all__ = ["AbortedError", "EngineDeadError", "EngineThread", "Stream"]

LOG = logging.getLogger("heddle")


class Stream:
    """What comes of one request, in the event loop that asked for it."""

    def __init__(self, request: Request, loop: asyncio.AbstractEventLoop) -> None:
        self.request, self.loop = request, loop
        self._steps: asyncio.Queue[StepOutput] = asyncio.Queue()

    async def next(self) -> StepOutput:
        """What the next step brought. Raises its error where it failed."""
        step = await self._steps.get()
        if step.error is not None:
            raise step.error
        return step

    def put(self, step: StepOutput) -> None:
        """Called in the loop."""
        self._steps.put_nowait(step)


@dataclasses.dataclass(eq=False)
class Held:
    """A request that is not in the engine yet, and since when."""

    stream: Stream
    since: float


class EngineThread:
    """Runs an LLM's engine. All methods may be called by any thread."""

    def __init__(self, open_model: Callable[[], LLM], wait_for_room: bool) -> None:
        """Returns when the model is loaded; raises what loading it raised.

        `wait_for_room` holds requests back while the engine's queue is full, which are refused otherwise.
        """
        self._wait_for_room = wait_for_room
        self._condition = threading.Condition()
        self._inbox: deque[Callable[[], None]] = deque()
        self._end: HeddleError | None = None  # why nothing is served any more
        self._stopping = self._draining = False
        # These are the thread's own.
        self._streams: dict[str, Stream] = {}
        self._held: deque[Held] = deque()
        opened = threading.Event()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                self.llm = open_model()
            except BaseException as error:
                failed.append(error)
                return
            finally:
                opened.set()
            self._run()

        self._thread = threading.Thread(target=run, name="heddle engine", daemon=True)
        self._thread.start()
        opened.wait()
        if failed:
            raise failed[0]

    @property
    def failure(self) -> HeddleError | None:
        """Why no request is taken any more; None while they are."""
        return self._end or (_shut_down() if self._stopping else None)

    def submit(self, stream: Stream) -> None:
        """Serve the request of `stream`. EngineDeadError where nothing is served any more; other errors go to the stream."""
        held = Held(stream, time.monotonic())
        self._post(lambda: self._held.append(held), required=True)

    def close(self, stream: Stream) -> None:
        """Nobody wants to know of `stream` any more: abort its request if it is unfinished."""

        def close() -> None:
            self._held = deque(held for held in self._held if held.stream is not stream)
            name = stream.request.request_id
            if self._streams.get(name) is stream:  # and not another's that has the id by now
                del self._streams[name]
                self.llm.engine.abort(name)

        self._post(close)

    def abort(self, request_id: str) -> None:
        """End the request with AbortedError, if it is unfinished."""

        def abort() -> None:
            streams = [held.stream for held in self._held if held.stream.request.request_id == request_id]
            self._held = deque(held for held in self._held if held.stream not in streams)
            if stream := self._streams.pop(request_id, None):
                self.llm.engine.abort(request_id)
                streams.append(stream)
            self._fail(streams, lambda name: AbortedError(f"request {name!r} was aborted"))

        self._post(abort)

    def stop(self, drain: bool = False) -> None:
        """Take no more requests and wait until the thread has ended: at once (open requests end with AbortedError), or with
        `drain` when all are finished."""
        with self._condition:
            self._draining = drain and (self._draining or not self._stopping)
            self._stopping = True
            self._condition.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _post(self, command: Callable[[], None], required: bool = False) -> None:
        with self._condition:
            if required and self._end is not None:
                raise self._end
            if required and self._stopping:
                raise _shut_down()
            if self._end is None:
                self._inbox.append(command)
                self._condition.notify()

    # In the thread.

    def _run(self) -> None:
        end: HeddleError = _shut_down()
        try:
            self._serve()
        except BaseException as error:
            end = EngineDeadError(
                "the engine's thread has ended by an error",
                f"{type(error).__name__}: {error}",
                "this is a bug: report it, and load the model again",
            )
            end.__cause__ = error
        with self._condition:
            self._end = end
            commands, self._inbox = self._inbox, deque()
        for command in (*commands, self._fail_all, self.llm.engine.close):
            try:
                command()
            except Exception:  # an engine that died may be in any state; all streams must hear of it nevertheless
                LOG.exception("while the engine was closed")

    def _fail_all(self) -> None:
        streams = [*self._streams.values(), *(held.stream for held in self._held)]
        self._streams, self._held = {}, deque()
        end = self._end
        if end is None or end.__cause__ is None:
            self._fail(streams, lambda name: AbortedError(f"request {name!r} was aborted: the engine was shut down"))
        else:
            self._fail(streams, lambda name: end)

    def _serve(self) -> None:
        engine = self.llm.engine
        while True:
            with self._condition:
                while not (self._inbox or self._held or engine.has_work or self._stopping):
                    self._condition.wait()
                commands, self._inbox = self._inbox, deque()
                stopping, draining = self._stopping, self._draining
            for command in commands:
                command()
            if stopping and not (draining and (self._held or engine.has_work)):
                return
            self._let_in()
            if engine.has_work:
                self._deliver(engine.step())

    def _let_in(self) -> None:
        """Add the requests that are held, as far as there is room; the others wait, or are refused if no step makes any."""
        engine, left = self.llm.engine, deque[Held]()
        stuck = engine.max_waiting is not None and len(engine.waiting) >= engine.max_waiting
        for held in self._held:
            stream, request, waited = held.stream, held.stream.request, time.monotonic() - held.since
            full = engine.max_waiting is not None and len(engine.waiting) >= engine.max_waiting
            try:
                if full and request.timeout is not None and waited >= request.timeout:
                    raise DeadlineError(
                        f"request {request.request_id!r} found no room in {request.timeout:g} seconds",
                        f"{len(engine.waiting)} requests wait, which is all that may (max_waiting={engine.max_waiting})",
                        "give it more time, or the engine less to do",
                    )
                if full and (self._wait_for_room or not stuck):
                    left.append(held)
                    continue
                if request.timeout is not None:
                    request.timeout = max(0.0, request.timeout - waited)  # at 0 the first step ends it
                engine.add(request)
                self._streams[request.request_id] = stream
            except HeddleError as error:
                self._send([(stream, StepOutput(request.request_id, error=error))])
        self._held = left

    def _deliver(self, outputs: Iterable[StepOutput]) -> None:
        """Hand on what a step brought; requests whose loops are closed are aborted."""
        found = []
        for step in outputs:
            stream = self._streams.get(step.request_id)
            if stream is not None:
                found.append((stream, step))
                if step.finished:
                    del self._streams[step.request_id]
        for stream in self._send(found):
            name = stream.request.request_id
            if self._streams.pop(name, None) is not None:
                self.llm.engine.abort(name)

    def _send(self, found: Iterable[tuple[Stream, StepOutput]]) -> list[Stream]:
        """Put steps into streams, waking every loop once; returns the streams whose loops are closed."""
        loops: dict[asyncio.AbstractEventLoop, list[tuple[Stream, StepOutput]]] = {}
        for stream, step in found:
            loops.setdefault(stream.loop, []).append((stream, step))
        gone: list[Stream] = []
        for loop, mail in loops.items():
            try:
                loop.call_soon_threadsafe(_put_all, mail)
            except RuntimeError:  # the loop is closed
                gone += [stream for stream, _ in mail]
        return gone

    def _fail(self, streams: Iterable[Stream], error: Callable[[str], HeddleError]) -> None:
        names = [(stream, stream.request.request_id) for stream in streams]
        self._send([(stream, StepOutput(name, error=error(name))) for stream, name in names])


def _put_all(mail: list[tuple[Stream, StepOutput]]) -> None:
    for stream, step in mail:
        stream.put(step)


def _shut_down() -> EngineDeadError:
    return EngineDeadError("the engine was shut down", "it takes no requests any more", "load the model again")
