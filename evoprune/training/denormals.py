"""Numbers too small to matter, before they become denormals, on which processors are slow."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["EVERY", "zero_tiny"]

EVERY = 64
"""Steps between two looks: a momentum of 0.9 shrinks a number by a factor of a thousand in that time."""

TINY = 1e-30


def zero_tiny(optimizer: torch.optim.Optimizer) -> None:
    """Set entries of the optimizer's state below 1e-30 in size to 0.

    The momentum of a weight whose gradient stays 0 (a dead unit's) would otherwise shrink to the smallest denormal and
    stay there, since 0.9 of it rounds to itself. Element-wise, so no result depends on who trains beside it.
    """
    for slots in optimizer.state.values():
        for value in slots.values():
            if isinstance(value, Tensor) and value.is_floating_point() and value.dim():
                value.masked_fill_(value.abs() < TINY, 0)
