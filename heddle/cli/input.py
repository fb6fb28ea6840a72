"""Texts of the user, whatever bytes they come as: what is no UTF-8 becomes U+FFFD, as in heddle-run."""

from __future__ import annotations

import os
import sys


def standard_input() -> str:
    """All of standard input, with its line ends as they are."""
    return sys.stdin.buffer.read().decode("utf-8", "replace")


def argument(text: str) -> str:
    """An argument, in which Python keeps bytes of no character as halves of surrogate pairs."""
    return os.fsencode(text).decode("utf-8", "replace")
