"""Dissipation, regrowth at a constant learning rate, and the mean of the last weights."""

from __future__ import annotations

from typing import Any

from evoprune.masks.allocation import Allocation
from evoprune.masks.ranking import check_floors
from evoprune.masks.sampling import random_mask
from evoprune.methods.dissipate_regrow import UNSET, dissipate, nearly_dense, regrow, regrowth_holding
from evoprune.methods.dissipation import check_count
from evoprune.methods.registry import method
from evoprune.methods.rewiring import check_share
from evoprune.problems.problem import Problem
from evoprune.training.averaging import train_averaged
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket

__all__ = ["averaged_epochs", "regrow_average"]


@method(
    reference="this project, dissipate_regrow; the mean from Izmailov 2018, arXiv:1803.05407", holds=regrowth_holding, unset=UNSET
)
def regrow_average(
    problem: Problem,
    *,
    sparsity: float = 0.95,
    epochs: int = 10,
    start_sparsity: float | None = None,
    checks: int | None = None,
    every: int = 100,
    fraction: float = 0.2,
    average: float = 0.25,
    allocation: Allocation = "erk",
    seed: int = 0,
    schedule: str = "constant",
    **training: Any,
) -> Ticket:
    """Dissipate, then let survivors move, at a learning rate that never falls, and take the mean of each weight's last values.

    Dissipation in the first quarter is that of `dissipate_regrow`, and so is regrowth, but for its period of 100 steps (`every`)
    and its end. The mean is over the ends of the last epochs, a quarter of all (`average`), in which no survivor moves: it takes
    out the noise that steps at a constant learning rate (`schedule`) leave in the weights.
    Cost: that of the survivors, which are many in the first quarter, and one dense gradient of a batch every `every` steps.
    """
    check_share(fraction=fraction, average=average)
    averaged = averaged_epochs(epochs, average)
    checks = check_count(max(1, epochs // 4) if checks is None else checks, epochs, after=averaged - 1)
    budget = problem.space.budget(sparsity)
    start_sparsity = nearly_dense(budget / problem.prunable) if start_sparsity is None else start_sparsity
    start = random_mask(problem.space, sparsity=start_sparsity, allocation=allocation, seed=seed)
    check_floors(start, budget)
    generation = Population(problem, [start], horizon=epochs, seed=seed, schedule=schedule, **training)
    regrow(dissipate(generation, budget, checks), fraction, 1 - averaged / epochs, every)
    return train_averaged(generation, averaged).ticket()


def averaged_epochs(epochs: int, average: float) -> int:
    """How many of the last epochs are averaged over: the share `average`, at least one."""
    return max(1, round(average * epochs))
