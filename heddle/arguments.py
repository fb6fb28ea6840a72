"""Reading the arguments of the Python interface: prompts, parameters and sizes in the forms that people write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .runtime.errors import RequestError
from .runtime.sampling import SamplingParams

Prompt = str | Sequence[int] | np.ndarray


def memory_share(size: int | str) -> float | None:
    """The share (over 0, at most 1) that a text such as "50%" says; None where it says none."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", size) if isinstance(size, str) else None
    if found is None:
        return None
    if not 0 < float(found[1]) <= 100:
        raise RequestError(f"kv_memory is {size!r}; a share of the memory is over 0% and at most 100%")
    return float(found[1]) / 100


def byte_count(name: str, size: int | str, *others: str) -> int:
    """A size in bytes from a number or a text such as "512MiB", "2GB", "1.5 GiB". RequestError where it is neither.

    `others` are forms that the option `name` may have besides, for the message.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    powers = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", size, re.IGNORECASE) if isinstance(size, str) else None
    if found is None or found[2].upper() not in powers or float(found[1]) == 0:
        allowed = ", ".join(("'512MiB'", "'2GB'", *others))
        raise RequestError(f"{name} is {size!r}; allowed are bytes over 0, or a text: {allowed}")
    return int(float(found[1]) * powers[found[2].upper()])


def prompt_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or several as a list. One prompt is a text or a flat list of integers."""
    if isinstance(prompts, str) or (isinstance(prompts, np.ndarray) and prompts.ndim == 1):
        return [prompts]
    if not isinstance(prompts, Iterable) or isinstance(prompts, (bytes, Mapping)):
        kind = type(prompts).__name__
        raise RequestError(f"prompts is a {kind}; it must be a text, token ids, or a list of these")
    given: list[Any] = list(prompts)
    if given and all(isinstance(item, (int, np.integer)) for item in given):
        return [given]
    return given


def params_list(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
    """One SamplingParams per prompt."""
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    listed = list(params) if isinstance(params, Iterable) else [params]
    if any(not isinstance(item, SamplingParams) for item in listed):
        raise RequestError("sampling_params must be a SamplingParams, a list of them, or None")
    if len(listed) != count:
        raise RequestError(
            f"{len(listed)} sampling_params for {count} prompts", fix="give one for all, or one per prompt"
        )
    return listed


def option_list(count: int, **options: Any) -> list[dict[str, Any]]:
    """The options of each request: every one is a value for all, or a list or tuple with one for each."""
    for name, value in options.items():
        if isinstance(value, (list, tuple)) and len(value) != count:
            raise RequestError(
                f"{len(value)} values of {name} for {count} prompts", fix="give one for all, or one per prompt"
            )
    return [
        {name: value[i] if isinstance(value, (list, tuple)) else value for name, value in options.items()}
        for i in range(count)
    ]


def check_tools(tools: Any) -> list[Mapping[str, Any]]:
    """Tools as chat templates take them: JSON schemas of functions."""
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Iterable):
        raise RequestError(f"tools is a {type(tools).__name__}; it must be a list of dicts (JSON schemas of functions)")
    listed = list(tools)
    for i, tool in enumerate(listed):
        if not isinstance(tool, Mapping):
            raise RequestError(f"tools[{i}] is {tool!r}; it must be a dict: the JSON schema of a function")
    return listed


def template_text(chat_template: str | Path | None) -> str | None:
    """A chat template's text: as it is given, or in the file that is named. RequestError where neither makes sense."""
    if chat_template is None:
        return None
    if isinstance(chat_template, str) and ("{{" in chat_template or "{%" in chat_template):
        return chat_template
    if not isinstance(chat_template, (str, Path)):
        raise RequestError(f"chat_template is {chat_template!r}; it must be the text of a template, or its file")
    try:
        text = Path(chat_template).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise RequestError(
            f"chat_template is {str(chat_template)[:200]!r}, which cannot be read",
            str(error),
            "give the text of a Jinja template, or the path of its file",
        ) from error
    if not text.strip():
        raise RequestError(f"chat_template is {str(chat_template)!r}, which is empty")
    return text


@contextmanager
def about(where: str) -> Iterator[None]:
    """Name the prompt in an error about it; "" names none."""
    try:
        yield
    except RequestError as error:
        if not where:
            raise
        raise RequestError(f"{where}: {error.what}", error.why, error.fix) from error


@contextmanager
def progress_bar(total: int, show: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error; the result moves it on by one."""
    if not show:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("generating", total=total)
        yield lambda: bar.advance(task)
