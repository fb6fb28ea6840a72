"""Chat templates, run in a process of their own (`template_worker.py`) with bounds on time and memory.

A template comes with the model's files and is a program in Jinja. Jinja's sandbox keeps it from reaching out of its data. It does
not keep it from looping for ever or from making a list that doubles with each turn, and compiling alone can do that (constants
are computed then), so it is the operating system that bounds it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import HeddleError

SECONDS = 5.0
"""Processor time that a template may take; usual ones take under a millisecond."""
MEMORY = 1 << 29
"""Bytes that its process may have mapped."""

BOUNDS = ("TimeoutError", "MemoryError", "RecursionError", "OverflowError", "RuntimeError")
"""Kinds of TemplateError that say that a bound was reached, not that the template has something against its input."""

_ENVIRONMENT = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "TZ")
"""What the process gets to know of this one's environment, which may hold keys."""

_WORKER = Path(__file__).with_name("template_worker.py")


class TemplateError(HeddleError):
    """A template that failed: `kind` names the exception, `why` is what it says."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(f"{kind}: {why}")
        self.kind, self.reason = kind, why


class TemplateProcess:
    """Renders templates, one at a time; any thread may call it. The process is started when it is needed, and again if it ended."""

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self.seconds, self.memory = seconds, memory
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, template: str, variables: Mapping[str, Any] | None) -> str:
        """The text that `template` makes of `variables` (JSON values); None only compiles it.

        TemplateError where it fails or takes too long, TypeError or ValueError for variables that are not JSON.
        """
        request = json.dumps({"template": template, "variables": variables}).encode()
        with self._lock:
            answer = self._ask(request)
        if "error" in answer:
            raise TemplateError(str(answer["error"]), str(answer["why"]))
        return str(answer["text"])

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()

    def hold(self) -> None:
        """Let nobody in: a fork between question and answer would leave half of one to either side."""
        self._lock.acquire()

    def release(self) -> None:
        """Undo `hold`."""
        self._lock.release()

    def forget(self) -> None:
        """Drop the process without ending it: it is the one of the process that this one was forked from."""
        self._lock = threading.Lock()
        if self._process is not None:
            self._process.returncode = 0  # not ours to wait for
            _close(self._process)
            self._process = None

    def _ask(self, request: bytes) -> dict[str, Any]:
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(struct.pack("<I", len(request)) + request)
            process.stdin.flush()
            head = process.stdout.read(4)
            body = process.stdout.read(struct.unpack("<I", head)[0]) if len(head) == 4 else b""
        except BrokenPipeError:
            body = b""
        except BaseException:  # an interrupt: what comes next would be the answer to this
            self._stop()
            raise
        try:
            found: dict[str, Any] = json.loads(body)
        except ValueError:  # nothing, or half of it
            return self._ended()
        return found

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._stop()
            command = [sys.executable, "-P", str(_WORKER), str(self.seconds), str(self.memory)]
            environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # where Jinja is found
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for us
                )
            except OSError as error:
                raise TemplateError("RuntimeError", f"the process for templates cannot be started: {error}") from error
        return self._process

    def _ended(self) -> dict[str, Any]:
        """Why the process is gone."""
        assert self._process is not None
        code = self._process.wait()
        self._stop()
        if code == -signal.SIGPROF:
            return {
                "error": "TimeoutError",
                "why": f"the template took more than {self.seconds:g} seconds of processor time",
            }
        return {"error": "RuntimeError", "why": f"the template's process ended with code {code}"}

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _close(process)
            process.kill()
            process.wait()


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


_shared = TemplateProcess()
atexit.register(_shared.close)
os.register_at_fork(before=_shared.hold, after_in_parent=_shared.release, after_in_child=_shared.forget)


def render(template: str, variables: Mapping[str, Any] | None) -> str:
    """As `TemplateProcess.render`, by the process that all tokenizers share."""
    return _shared.render(template, variables)
