"""Torch modules as artifacts: exported by torch in a process of its own, lowered here without torch."""
