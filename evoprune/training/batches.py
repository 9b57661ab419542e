"""Batches of the training split: data kept on the device, the order a function of seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.problems.problem import Problem
from evoprune.problems.splits import Split

__all__ = ["Batches"]


class Batches:
    """The training split in batches of equal size; the last partial batch is dropped.

    size: samples a batch; None takes the problem's default, min(128, n_train // 40).
    """

    def __init__(self, problem: Problem, seed: int, size: int | None, device: torch.device, dtype: torch.dtype) -> None:
        self.seed, self.device, self.dtype = seed, device, dtype
        train = problem.split("train")
        self.size = problem.batch_size if size is None else size
        if self.size > len(train):
            raise InputError(f"batch_size={self.size} is more than the {len(train)} training samples: choose a smaller one")
        self.inputs, self.targets = self.place(train)
        self.per_epoch = len(train) // self.size

    def place(self, split: Split) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a split on the device, floats in the training precision."""
        targets = split.inputs if split.targets is None else split.targets
        return self._cast(split.inputs), self._cast(targets)

    def _cast(self, value: Tensor) -> Tensor:
        return value.to(self.device, self.dtype if value.is_floating_point() else None)

    def sample(self) -> Tensor:
        """Two inputs, to try a model on."""
        return self.inputs[:2]

    def order(self, epoch: int) -> Tensor:
        """Indices of the epoch's samples in their order, `(per_epoch, size)`."""
        shuffled = seeds.generator(self.seed, "batches", epoch).permutation(len(self.inputs))
        kept = shuffled[: self.per_epoch * self.size].reshape(self.per_epoch, self.size)
        return torch.from_numpy(kept).to(self.device)

    def epoch(self, epoch: int, first: int = 0, stop: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of the steps of an epoch (0 is the first), or of its steps first … stop - 1 alone."""
        for indices in self.order(epoch)[first:stop]:
            yield self.inputs[indices], self.targets[indices]

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the global `step`."""
        indices = self.order(step // self.per_epoch)[step % self.per_epoch]
        return self.inputs[indices], self.targets[indices]
