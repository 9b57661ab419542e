"""Sparse evolutionary training: weights near zero leave, random ones enter.  [Mocanu 2018, arXiv:1707.04780]"""

from __future__ import annotations

import logging
from typing import Any

from evoprune import seeds
from evoprune.masks.allocation import Allocation
from evoprune.masks.mask import Indices
from evoprune.masks.sampling import complement, random_mask, random_subset
from evoprune.methods.registry import method
from evoprune.methods.rewiring import check_period, check_share, rewire
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket

__all__ = ["rewire_at_random", "set_"]

log = logging.getLogger("evoprune")


@method(reference="Mocanu 2018, arXiv:1707.04780, algorithm 1", unset={"every": "an epoch"})
def set_(
    problem: Problem,
    *,
    sparsity: float = 0.95,
    epochs: int = 10,
    every: int | None = None,
    fraction: float = 0.3,
    allocation: Allocation = "erk",
    seed: int = 0,
    **training: Any,
) -> Ticket:
    """Train a random mask; after each epoch 30% of every layer, those nearest zero, leave and as many random weights enter.

    Not after the last epoch. New weights start at 0, without momentum. every: steps between, an epoch unless given. fraction:
    share that leaves. Cost: that of the survivors.
    """
    mask = random_mask(problem.space, sparsity=sparsity, allocation=allocation, seed=seed)
    generation = Population(problem, [mask], horizon=epochs, seed=seed, **training)
    return rewire_at_random(generation, every, fraction).ticket()


def rewire_at_random(generation: Population, every: int | None = None, fraction: float = 0.3) -> Population:
    """Train every network of `generation` to its horizon, rewired at random every so many steps, an epoch unless given."""
    check_period(every)
    check_share(fraction=fraction)
    space, period = generation.problem.space, every or generation.batches.per_epoch
    total = generation.horizon * generation.batches.per_epoch

    def enter(row: int, layer: int, before: Indices, stay: Indices, count: int) -> Indices:
        individual = generation.trace.individuals[row]  # not its position, which depends on who trains beside it
        rng = seeds.generator(generation.seed, "set", generation.steps // period, individual, layer)
        free = complement(before, space.sizes[layer])
        return free[random_subset(rng, len(free), count)]

    first = generation.steps + period - generation.steps % period
    if first >= total:
        log.warning(
            "set: the first of its updates comes after step %d, the last is %d: nothing moves, lower every=", first, total
        )
    for step in range(first, total, period):
        generation.train_steps(step - generation.steps)
        rewire(generation, fraction, enter)
    return generation.train_steps(total - generation.steps)
