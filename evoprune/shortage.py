"""Telling by an error that memory ran out, whatever raised it."""

from __future__ import annotations

import torch

__all__ = ["out_of_memory"]

WORDS = (
    *("out of memory", "allocate memory", "not enough memory"),
    *("alloc_failed", "unable to find an engine"),  # cuBLAS and cuDNN, when their work space does not fit
)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or a GPU."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in WORDS)
