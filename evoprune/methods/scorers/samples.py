"""Where a scorer's samples come from: the training split, balanced by class or in batches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.problems.problem import Problem
from evoprune.values import whole

__all__ = ["Samples"]

PER_CLASS, WITHOUT_CLASSES = 10, 100
BATCHES = 100_000
"""More would take days, and is no number that was meant."""


class Samples:
    """Draws of training samples; each is a function of the seed and the names it is asked by.

    per_class: samples of each class in a draw; None takes 10, or 100 in all where there are no classes.
    batches: draws that count together, each of the problem's batch size, in place of `per_class`. drawn: False where only their
    number and shape are used, for which no class is too small.
    Raises `InputError` when both are given, for `per_class` without class labels, and for classes that are too small.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        per_class: int | None,
        batches: int | None,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        drawn: bool = True,
    ) -> None:
        for name, value in (("samples_per_class", per_class), ("batches", batches)):
            if value is not None:
                whole(name, value, 1)
        if batches is not None and batches > BATCHES:
            raise InputError(f"batches={batches} is not usable: give at most {BATCHES}")
        if per_class is not None and batches is not None:
            raise InputError(f"samples_per_class={per_class} and batches={batches} say two things: give one of them")
        self.split, self.seed, self.device, self.dtype = problem.split("train"), seed, device, dtype
        self.number = batches or 1
        self.classes: list[np.typing.NDArray[np.int64]] = []
        self.size = min(problem.batch_size if batches else WITHOUT_CLASSES, len(self.split))
        if problem.task == "classification" and batches is None:
            self._balance(PER_CLASS if per_class is None else per_class, drawn)
        elif per_class is not None:
            raise InputError(f"samples_per_class={per_class} needs class labels, this is {problem.task}: give batches= instead")

    def _balance(self, per_class: int, drawn: bool) -> None:
        labels = self.split.goals.numpy()
        self.classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        least = min(len(rows) for rows in self.classes)
        if drawn and least < per_class:
            raise InputError(f"samples_per_class={per_class}: a class has only {least} training samples, give fewer or batches=")
        self.per_class, self.size = per_class, per_class * len(self.classes)

    def draw(self, *name: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the draw called `name`, on the device."""
        rng = seeds.generator(self.seed, "scoring", *name)
        if self.classes:
            rows = np.concatenate([rng.choice(own, self.per_class, replace=False) for own in self.classes])
        else:
            rows = rng.choice(len(self.split), self.size, replace=False)
        chosen = torch.from_numpy(rows)
        return self._placed(self.split.inputs[chosen]), self._placed(self.split.goals[chosen])

    def noise(self, *name: int) -> Tensor:
        """Standard normal inputs, as many as a draw has. Raises `InputError` for a model that reads integers."""
        if not self.split.inputs.is_floating_point():
            raise InputError("the model reads integers, a scorer with random inputs cannot feed it: choose another scorer")
        rng = seeds.torch_generator(self.seed, "scoring noise", *name)
        return self._placed(torch.randn(self.size, *self.split.inputs.shape[1:], generator=rng, dtype=torch.float32))

    def ones(self) -> Tensor:
        """One input of ones."""
        return self._placed(torch.ones_like(self.split.inputs[:1]))

    def _placed(self, value: Tensor) -> Tensor:
        return value.to(self.device, self.dtype if value.is_floating_point() else None)
