"""Importing this module registers the kernels that the format layer generates, and names their factories."""

from __future__ import annotations

from .attention.kernel import attention

__all__ = ["attention"]
