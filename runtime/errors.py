"""Errors that say what is wrong, why it matters and how to fix it. All that Heddle raises on purpose is a `HeddleError`."""

from __future__ import annotations


class HeddleError(Exception):
    """An error with three parts: `what` happened, `why` it is a problem, and a way to `fix` it (the last two may be empty)."""

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        lines = [what]
        if why:
            lines.append(f"  why: {why}")
        if fix:
            lines.append(f"  fix: {fix}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[HeddleError], tuple[str, str, str]]:
        return type(self), (self.what, self.why, self.fix)


class ArtifactError(HeddleError):
    """An artifact cannot be used here: missing, damaged, from another version, or for another CPU."""


class ManifestError(ArtifactError):
    """A manifest does not follow the schema; the message names the field."""


class TensorFileError(HeddleError):
    """A safetensors file is truncated, corrupt or not safetensors at all."""


class RequestError(HeddleError, ValueError):
    """A request that the model cannot serve: too long, a token id out of range, an unknown option."""


class ContextLengthError(RequestError):
    """A prompt that the model's context does not hold."""


class QueueFullError(RequestError):
    """The engine's queue has no place left; the request may be sent again later."""


class DeadlineError(HeddleError, TimeoutError):
    """A request's deadline passed before it was finished, and a part of its result is of no use."""


class AbortedError(HeddleError):
    """A request was aborted by its id, or by shutting the engine down."""


class EngineDeadError(HeddleError):
    """The engine serves nothing any more: it was shut down, or an error that is no request's ended its thread."""


class PoolError(HeddleError, MemoryError):
    """There is not enough memory for a buffer; the message says how much is needed and how much is available."""


class ThreadsError(HeddleError, ValueError):
    """A thread count that cannot be had."""
