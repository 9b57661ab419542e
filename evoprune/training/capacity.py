"""How many networks fit into memory at once, found by trying."""

from __future__ import annotations

from typing import Any

from evoprune.masks.mask import Mask
from evoprune.problems.problem import Problem
from evoprune.training.memory import largest
from evoprune.training.population import Population

__all__ = ["largest_population"]

TRIALS = 3
"""Steps that show what training takes: the optimizer's state comes with the second."""


def largest_population(problem: Problem, mask: Mask, *, most: int = 4096, **training: Any) -> int:
    """Networks of `mask`'s size, at most `most`, that train together in the memory of the device, to within an eighth.

    training: as for `Population`. Tried with a few steps at learning rate 0; nothing is kept of them. A smaller chunk is no
    obstacle: what counts are the values, gradients and optimizer state of all networks, and one network's step.
    """

    def attempt(k: int) -> None:
        population = Population(problem, [mask] * k, horizon=1, **{**training, "lr": 0.0})
        population.train_steps(min(TRIALS, population.batches.per_epoch))

    return largest(attempt, first=min(64, most), most=most)
