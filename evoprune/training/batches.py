"""Batches of the training split: data kept on the device, the order a function of seed and epoch alone."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.problems.fit import check_batch
from evoprune.problems.problem import Problem
from evoprune.problems.splits import Split

__all__ = ["Batches"]


_RESIDENT: WeakKeyDictionary[Split, dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]]] = WeakKeyDictionary()
"""Splits that were copied to a device, for as long as their problem lives: a search trains many populations on the same data."""


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
        if self.size == 1:
            check_batch(problem.module(), train.inputs[:1])  # batch norm has nothing to average
        self.inputs, self.targets = self.place(train)
        self.per_epoch = len(train) // self.size

    def place(self, split: Split) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a split on the device, floats in the training precision."""
        if self.device.type == "cpu":
            return self._cast(split.inputs), self._cast(split.goals)
        placed = _RESIDENT.setdefault(split, {})
        key = self.device, self.dtype
        if key not in placed:
            inputs = self._cast(split.inputs)
            placed[key] = inputs, inputs if split.targets is None else self._cast(split.targets)
        return placed[key]

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

    def rows(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the samples `indices`."""
        return self.inputs[indices], self.targets[indices]

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the global `step`."""
        return self.rows(self.order(step // self.per_epoch)[step % self.per_epoch])
