"""Errors of the format layer."""

from __future__ import annotations

from ...runtime.errors import HeddleError


class SparseError(HeddleError, ValueError):
    """A program that cannot be lowered: what is wrong, why, and what to write instead."""


class FormatError(HeddleError, ValueError):
    """Arrays that are not what their format says."""
