"""K-starts and dissipating gradients together.  [Haroon 2022, arXiv:2209.02201]"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from evoprune import seeds
from evoprune.criteria import CRITERIA
from evoprune.errors import InputError
from evoprune.evolution.assess import initial_population
from evoprune.evolution.individual import Individual
from evoprune.evolution.tournament import check_rungs, tournament
from evoprune.masks.allocation import Allocation
from evoprune.masks.mask import Mask
from evoprune.masks.ranking import check_floors
from evoprune.masks.sampling import random_mask, random_subset
from evoprune.methods.dissipation import (
    RULES,
    UNSET,
    check,
    check_count,
    check_options,
    geometric,
    layer_counts,
    snapshot,
    start_density,
    start_holding,
)
from evoprune.methods.registry import Holding, method
from evoprune.problems.problem import Problem
from evoprune.registry import one_of
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket
from evoprune.values import is_number

__all__ = ["combined"]

log = logging.getLogger("evoprune")

POOL = 2.0


def _holds(density: float, options: Mapping[str, Any]) -> Holding:
    """k denser networks, or one, and later k of the asked density."""
    start = start_holding(density, options).weights
    return Holding(options["k"] * start if options["order"] == "together" else max(start, options["k"] * density))


@method(reference="Haroon 2022, arXiv:2209.02201", holds=_holds, unset=UNSET)
def combined(
    problem: Problem,
    *,
    sparsity: float = 0.95,
    k: int = 32,
    selection_epochs: int = 2,
    epochs: int = 10,
    criterion: str = "grad",
    order: Literal["together", "dissipate-first"] = "together",
    rule: str = "rank",
    reference: str = "init",
    scope: str = "global",
    start_sparsity: float | None = None,
    checks: int | None = None,
    pool: float = POOL,
    allocation: Allocation = "erk",
    seed: int = 0,
    **training: Any,
) -> Ticket:
    """Select among k random masks while the weights that stay near their initial value leave.

    order "together": k masks denser than asked, each loses its unmoved weights at the checks, the fittest goes on after
    `selection_epochs`. "dissipate-first": one network dissipates to `pool` times the budget, then k random masks among its
    survivors compete for `selection_epochs`. The other options are those of `kstarts` and `dissipating`.
    """
    one_of("rule", rule, [name for name, known in RULES.items() if known.counts])
    how = check_options(rule, "none", reference, scope, None, None, 0.0)
    chosen, budget = CRITERIA[criterion], problem.space.budget(sparsity)
    together = one_of("order", order, ("together", "dissipate-first")) == "together"
    check_rungs((selection_epochs,), epochs, criterion=chosen)
    if not (is_number(pool) and pool >= 1):
        raise InputError(f"pool={pool!r} is not usable: give how many times the budget the masks are drawn from, >= 1")
    if together and pool != POOL:
        log.warning("combined: pool=%r does nothing with order='together'", pool)
    if not selection_epochs:
        raise InputError("selection_epochs=0 leaves no check before the choice: use kstarts, or select after 1 epoch or more")
    checks = check_count(checks, epochs, after=0 if together else selection_epochs)
    start = 1 - start_density(budget / problem.prunable) if start_sparsity is None else start_sparsity

    individuals: list[Any] = initial_population(problem.space, k, sparsity=start, allocation=allocation, seed=seed)
    if not together:
        individuals = [Individual(random_mask(problem.space, sparsity=start, allocation=allocation, seed=seed))]
    check_floors(individuals[0].mask, budget)
    generation = Population(problem, individuals, horizon=epochs, seed=seed, **training)
    end = budget if together else min(individuals[0].mask.count, round(pool * budget))
    for epoch, survivors in enumerate(geometric(individuals[0].mask.count, end, checks), start=1):
        held = generation.parameters.initial if reference == "init" else snapshot(generation.parameters.survivors)
        generation.train(1, record={*how.needs, *chosen.needs})
        check(generation, how, held, budget=survivors, scope=scope)
        if together and epoch == selection_epochs:
            tournament(generation.measure(), individuals, (epoch,), criterion)
    if together:
        if selection_epochs > checks:
            tournament(generation, individuals, (selection_epochs,), criterion)
    else:
        masks = masks_within(generation.masks[0], k, budget, seed)
        generation.branch([0] * k, masks)
        tournament(generation, [Individual(mask) for mask in masks], (checks + selection_epochs,), criterion)
    return generation.train(epochs - generation.epoch).ticket()


def masks_within(mask: Mask, k: int, budget: int, seed: int) -> list[Mask]:
    """k random masks of `budget` survivors each among those of `mask`, in its layer proportions."""
    counts = layer_counts(mask, budget)
    draws = [seeds.generator(seed, "within", index) for index in range(k)]
    return [
        Mask._trusted(
            mask.space, [own[random_subset(draw, len(own), count)] for own, count in zip(mask.survivors, counts, strict=True)]
        )
        for draw in draws
    ]
