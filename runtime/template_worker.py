"""The process that runs chat templates: a template is a program that comes with a model, and nobody has looked at it.

Started by `chat_template.py` as a script of its own; imports Jinja and nothing of ours. A message is its length in four bytes, then
JSON. A template runs in Jinja's sandbox (no attributes that lead out of the data), within a bound on memory; the kernel lets the
process write no files and start no other, and ends it when its time is over.
"""

from __future__ import annotations

import datetime
import functools
import json
import os
import resource
import signal
import struct
import sys
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox


class Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks the model's turns for training; here it is its content."""

    tags = {"generation"}  # noqa: RUF012 (the name is Jinja's)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def tojson(value: object, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)


def strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """What chat templates are written for, as transformers' apply_chat_template has it; what leads out of the data is an error."""

    def unsafe_undefined(self, obj: object, attribute: str) -> jinja2.Undefined:
        raise jinja2.sandbox.SecurityError(f"a template may not read {attribute!r} of a {type(obj).__name__}")


@functools.cache
def environment() -> jinja2.Environment:
    made = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    made.filters["tojson"] = tojson
    made.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return made


@functools.lru_cache(maxsize=8)
def compiled(source: str) -> jinja2.Template:
    return environment().from_string(source)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """`{"text": ...}`, or `{"error": kind, "why": message}`; without variables the template is only compiled."""
    try:
        template = compiled(request["template"])
        if request["variables"] is None:
            return {"text": ""}
        return {"text": template.render(request["variables"])}
    except jinja2.TemplateSyntaxError as error:
        return {"error": "TemplateSyntaxError", "why": f"line {error.lineno}: {error.message}"}
    except MemoryError:
        return {"error": "MemoryError", "why": "the template needs too much memory"}
    except Exception as error:  # the template is a program: it may fail in any way
        return {"error": type(error).__name__, "why": str(error)[:2000]}


def main() -> None:
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        resource.setrlimit(limit, (0, 0))  # no dumps, files or processes, should a template get out of the sandbox
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else writes between the messages
    while len(head := source.read(4)) == 4:
        text = source.read(struct.unpack("<I", head)[0])
        # Processor time; nothing handles the signal, so that it ends the process.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            message = json.dumps(answer(json.loads(text))).encode()
        except MemoryError:
            message = json.dumps({"error": "MemoryError", "why": "the text is too long"}).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        sink.write(struct.pack("<I", len(message)) + message)
        sink.flush()


if __name__ == "__main__":
    main()
