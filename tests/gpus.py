"""Which tests see a GPU: those marked `cuda`. The others compare with numbers of the CPU, bit by bit."""

from __future__ import annotations

import os

import torch

__all__ = ["AVAILABLE", "show_gpus"]

AVAILABLE = torch.cuda.is_available()
_VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")
_ASK = torch.cuda.is_available


def show_gpus(shown: bool) -> None:
    """Whether `device="auto"` may be a GPU from now on, in this process and in those that it starts."""
    torch.cuda.is_available = _ASK if shown else lambda: False
    if not shown:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif _VISIBLE is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = _VISIBLE
