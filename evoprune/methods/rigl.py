"""RigL: weights near zero leave, those with the largest dense gradient enter.  [Evci 2020, arXiv:1911.11134]"""

from __future__ import annotations

import logging
from typing import Any

from evoprune.masks.allocation import Allocation
from evoprune.masks.sampling import random_mask
from evoprune.methods.registry import Holding, method
from evoprune.methods.rewiring import ROUNDING, annealed, check_period, check_share, rewire, steepest
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket

__all__ = ["rewire_by_gradient", "rigl"]

log = logging.getLogger("evoprune")


@method(reference="Evci 2020, arXiv:1911.11134, algorithm 1", holds=lambda density, options: Holding(density, gradients=1))
def rigl(
    problem: Problem,
    *,
    sparsity: float = 0.95,
    epochs: int = 10,
    every: int = 100,
    fraction: float = 0.3,
    until: float = 0.75,
    allocation: Allocation = "erk",
    seed: int = 0,
    **training: Any,
) -> Ticket:
    """Train a random mask; every 100 steps the smallest survivors leave and the weights with the largest dense gradient enter.

    At step t the share fraction/2·(1 + cos(pi·t/T)) of each layer moves, T = until · all steps; new weights start at 0, without
    momentum. every: steps between. Cost: that of the survivors, and one dense gradient of a batch every `every` steps.
    """
    mask = random_mask(problem.space, sparsity=sparsity, allocation=allocation, seed=seed)
    generation = Population(problem, [mask], horizon=epochs, seed=seed, **training)
    return rewire_by_gradient(generation, every, fraction, until).ticket()


def rewire_by_gradient(generation: Population, every: int = 100, fraction: float = 0.3, until: float = 0.75) -> Population:
    """Train every network of `generation` to its horizon, rewired by the dense gradient of the next batch."""
    check_period(every)
    check_share(fraction=fraction, until=until)
    total = generation.horizon * generation.batches.per_epoch
    end = int(until * total + ROUNDING)
    if every >= end:
        log.warning(
            "rigl: the first of its updates, one in %d steps, lies after step %d: nothing moves, lower every=", every, end
        )
    for step in range(every, end, every):
        generation.train_steps(step - generation.steps)
        rewire(generation, annealed(fraction, step, end), steepest(generation))
    return generation.train_steps(total - generation.steps)
