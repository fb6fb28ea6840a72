"""Importing this module registers the kernels that the format layer generates, and names their factories."""

from __future__ import annotations

from .attention.kernel import attention
from .kernels.grouped import grouped_matmul
from .kernels.matrix import sddmm, spmm

__all__ = ["attention", "grouped_matmul", "sddmm", "spmm"]
