"""Models that users might bring, in a module of their own so that other processes can import them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """A net with batch norm, a tied weight, a buffer of its own and a frozen layer."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.inp, self.mid, self.out = nn.Linear(5, width), nn.Linear(width, width), nn.Linear(width, 4)
        self.again = nn.Linear(width, width)
        self.again.weight = self.mid.weight
        self.norm = nn.BatchNorm1d(width)
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.register_buffer("scale", torch.rand(width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.inp(x)) * self.scale
        result: Tensor = self.out(self.again(self.frozen(torch.relu(self.norm(self.mid(h))))) + h)
        return result


def residual() -> nn.Module:
    return Residual()


def table(samples: int = 110, classes: int = 4, features: int = 5) -> dict[str, Any]:
    """A small data set, the same in every process."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(samples, features)).astype(np.float32), np.arange(samples) % classes
    return {"x_train": x[10:], "y_train": y[10:], "x_test": x[:10], "y_test": y[:10]}
