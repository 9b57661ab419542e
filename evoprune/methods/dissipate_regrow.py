"""Dissipation from a nearly dense start, then guided mutation with inherited weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from evoprune.masks.allocation import Allocation
from evoprune.masks.ranking import check_floors
from evoprune.masks.sampling import random_mask
from evoprune.methods.dissipation import RULES, check, check_count, geometric
from evoprune.methods.registry import Holding, method
from evoprune.methods.rewiring import ROUNDING, annealed, check_period, check_share, rewire, steepest
from evoprune.problems.problem import Problem
from evoprune.registry import one_of
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket

__all__ = ["UNSET", "dissipate", "dissipate_regrow", "nearly_dense", "regrow", "regrowth_holding"]

log = logging.getLogger("evoprune")

NEARLY_DENSE = 0.6
"""Density that dissipation starts from, or twice the asked one where that is more."""


def nearly_dense(density: float) -> float:
    """Sparsity of the mask that dissipation starts from, on its way to `density`."""
    return 1 - max(NEARLY_DENSE, min(1.0, 2 * density))


def regrowth_holding(density: float, options: Mapping[str, Any]) -> Holding:
    """The start of dissipation, and the dense gradient of regrowth."""
    start = options["start_sparsity"]
    return Holding(1 - (nearly_dense(density) if start is None else start), gradients=1)


UNSET = {"start_sparsity": "1 - max(0.6, twice the asked density)", "checks": "a quarter of epochs"}
"""What these options are where they are None."""


@method(
    reference="this project, from Haroon 2022, arXiv:2209.02201, and Evci 2020, arXiv:1911.11134",
    holds=regrowth_holding,
    unset=UNSET,
)
def dissipate_regrow(
    problem: Problem,
    *,
    sparsity: float = 0.95,
    epochs: int = 10,
    start_sparsity: float | None = None,
    checks: int | None = None,
    reference: str = "zero",
    fraction: float = 0.2,
    until: float = 0.75,
    allocation: Allocation = "erk",
    seed: int = 0,
    **training: Any,
) -> Ticket:
    """Dissipate to the asked sparsity in the first quarter of training, then let survivors move where gradients ask for them.

    Dissipation: a random mask of density 0.6 (`start_sparsity`) loses, at the end of each of the first `checks` epochs (a
    quarter of all), the weights of smallest abs(w - r), on a geometric schedule. reference: r, "zero" or "init" for w0; under
    weight decay a weight that gradients do not hold up moves from w0 to 0, so that "init" fits training without decay alone.
    Regrowth: at the start of each later epoch t < T = until · epochs, in every layer, the share fraction/2·(1 + cos(pi·t/T))
    nearest zero leaves, and as many enter at 0 by the size of their dense gradient times a uniform random number: a guided
    mutation with inherited weights.
    Cost: that of the survivors, which are many in the first quarter, and one dense gradient of a batch an epoch.
    """
    check_share(fraction=fraction, until=until)
    checks = check_count(max(1, epochs // 4) if checks is None else checks, epochs)
    budget = problem.space.budget(sparsity)
    start_sparsity = nearly_dense(budget / problem.prunable) if start_sparsity is None else start_sparsity
    start = random_mask(problem.space, sparsity=start_sparsity, allocation=allocation, seed=seed)
    check_floors(start, budget)
    generation = Population(problem, [start], horizon=epochs, seed=seed, **training)
    regrow(dissipate(generation, budget, checks, reference), fraction, until)
    return generation.train(epochs - generation.epoch).ticket()


def dissipate(generation: Population, budget: int, checks: int, reference: str = "zero") -> Population:
    """Train `checks` epochs; after each, the weights of every network nearest to their `reference` leave."""
    start = 1.0 if one_of("reference", reference, ("zero", "init")) == "init" else 0.0
    for survivors in geometric(generation.masks[0].count, budget, checks):
        generation.train(1)
        held = {name: start * value for name, value in generation.parameters.initial.items()}
        check(generation, RULES["rank"], held, budget=survivors)
    return generation


def regrow(generation: Population, fraction: float = 0.2, until: float = 0.75, every: int | None = None) -> Population:
    """Train every network to the share `until` of its horizon, in whole epochs, rewired at once and every `every` steps.

    every: steps between, an epoch unless given.
    """
    check_period(every)
    end = int(until * generation.horizon + ROUNDING) * generation.batches.per_epoch
    if generation.steps >= end:
        log.warning("regrowth would end at step %d and begin at %d: nothing moves, raise epochs=", end, generation.steps)
    for step in range(generation.steps, end, every or generation.batches.per_epoch):
        generation.train_steps(step - generation.steps)
        rewire(generation, annealed(fraction, step, end), steepest(generation, noise="regrow"))
    return generation.train_steps(max(end - generation.steps, 0))
