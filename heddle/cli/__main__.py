"""`python -m heddle.cli`: the same as `heddle`."""

from __future__ import annotations

from . import main

main()
