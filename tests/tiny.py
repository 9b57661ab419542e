"""Small problems for tests: data that can be learned, and models that users might bring."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.problems.problem import Problem


class Residual(nn.Module):
    """The user's own module: a residual add around batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.mid, self.bn, self.out = nn.Linear(6, 12), nn.Linear(12, 12), nn.BatchNorm1d(12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.inp(x))
        out: Tensor = self.out(torch.relu(self.bn(self.mid(h))) + h)
        return out


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.one, self.two, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(torch.relu(self.two(torch.relu(self.one(torch.relu(self.inp(x)))))))
        return out


def small_conv() -> nn.Module:
    """Two convolutions, each with batch norm."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip


def dropped() -> nn.Module:
    """Ordinary dropout between two layers."""
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 3)
    )


DRAWS: dict[str, Callable[[], float]] = {
    "torch": lambda: torch.rand(1).item(),
    "random": random.random,
    "numpy": lambda: float(np.random.random()),  # noqa: NPY002  as a user's own code does
}
"""A number from each global generator."""


class Skipping(nn.Module):
    """Stochastic depth: in training a layer is left out every other time, at random."""

    def __init__(self, draws: str = "torch") -> None:
        super().__init__()
        self.inp, self.mid, self.out, self.draws = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3), draws

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.inp(x))
        if not self.training or DRAWS[self.draws]() < 0.5:
            h = h + torch.relu(self.mid(h))
        out: Tensor = self.out(h)
        return out


class Always(nn.Module):
    """Dropout that stays on in evaluation: by a call that does not say when, or by a module that is never switched."""

    def __init__(self, kept_on: bool = False) -> None:
        super().__init__()
        self.inp, self.drop, self.out, self.kept_on = nn.Linear(6, 12), nn.Dropout(0.3), nn.Linear(12, 3), kept_on

    def train(self, mode: bool = True) -> Always:
        super().train(mode)
        self.drop.train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.inp(x))
        out: Tensor = self.out(self.drop(h) if self.kept_on else nn.functional.dropout(h, 0.3))
        return out


def table(shape: tuple[int, ...] = (6,), classes: int | None = 3, samples: int = 80, seed: int = 0) -> dict[str, Any]:
    """Inputs around one centre a class (labels left out for `classes=None`); a quarter more for testing."""
    rng, groups = np.random.default_rng(seed), classes or 4
    number = samples + samples // 4
    labels = np.arange(number) % groups
    centres = rng.normal(size=(groups, *shape))
    inputs = torch.from_numpy((1.5 * centres[labels] + rng.normal(size=(number, *shape))).astype(np.float32))
    arrays: dict[str, Any] = {"x_train": inputs[:samples], "x_test": inputs[samples:]}
    if classes:
        arrays |= {"y_train": torch.from_numpy(labels[:samples]), "y_test": torch.from_numpy(labels[samples:])}
    return arrays


@cache
def mlp(name: str = "mlp:10-8", features: int = 6, classes: int = 3, samples: int = 80) -> Problem:
    """A named fully connected model on a table; 164 prunable weights unless asked otherwise."""
    return Problem(name, table((features,), classes, samples))


def own(build: Callable[[], nn.Module], shape: tuple[int, ...] = (6,), *, seed: int = 0, **options: Any) -> Problem:
    """A user's own module on a table."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = build()
    return Problem(module, table(shape), **options)


@cache
def images(name: str, size: int = 28, channels: int = 1, samples: int = 44) -> Problem:
    """A named convolutional model on images."""
    return Problem(name, table((channels, size, size), 10, samples))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Run a block in which torch makes tensors of `dtype` where none is asked for."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def global_state(seed: int) -> Iterator[None]:
    """Set every global generator, and check at the end that the block left all of them alone."""
    with torch.random.fork_rng():
        python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[union-attr]  # noqa: NPY002
            yield
            assert before[0] == random.getstate(), "random was advanced"
            assert before[1] == np.random.get_state()[1].tolist(), "numpy.random was advanced"  # type: ignore[union-attr]  # noqa: NPY002
            assert before[2] == torch.get_rng_state().tolist(), "torch's generator was advanced"
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
