"""A generational search over masks: DEAP's (mu + lambda) loop, a few epochs of training are a fitness."""

from __future__ import annotations

from typing import Any

from deap import algorithms, tools

from evoprune.errors import InputError
from evoprune.evolution.toolbox import make_toolbox
from evoprune.masks.allocation import Allocation
from evoprune.methods.registry import method
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket

__all__ = ["evolve"]


@method(reference="(mu + lambda) evolution strategy, Beyer 2002, on masks of fixed size")
def evolve(
    problem: Problem,
    *,
    sparsity: float = 0.95,
    epochs: int = 10,
    fitness_epochs: int = 2,
    mu: int = 16,
    lambda_: int = 16,
    ngen: int = 8,
    cxpb: float = 0.2,
    mutpb: float = 0.8,
    criterion: str = "loss",
    budget: int | None = None,
    allocation: Allocation = "erk",
    seed: int = 0,
    **training: Any,
) -> Ticket:
    """Evolve masks for `ngen` generations, then train the best afresh for `epochs`.

    fitness_epochs: epochs of one evaluation. budget: samples trained in the search; it ends before the generation that
    would exceed it. cxpb + mutpb <= 1; the rest are clones.
    """
    _check(mu=mu, lambda_=lambda_, ngen=ngen)
    if not (0 <= cxpb <= 1 and 0 <= mutpb <= 1 and cxpb + mutpb <= 1):
        raise InputError(f"cxpb={cxpb!r} and mutpb={mutpb!r} are not usable: give shares of the offspring, together at most 1")
    if mu == 1 and cxpb:
        raise InputError(f"mu=1 leaves no pair to cross with cxpb={cxpb!r}: set cxpb=0, or raise mu=")
    toolbox = make_toolbox(
        problem, sparsity=sparsity, epochs=fitness_epochs, criterion=criterion, allocation=allocation, seed=seed, **training
    )
    best = tools.HallOfFame(1)
    population = toolbox.population(n=mu)
    offspring = population
    for generation in range(ngen + 1):
        spent = toolbox.map.ledger.samples
        if budget is not None and generation and spent + spent // toolbox.map.trained * lambda_ > budget:
            break
        if generation:
            offspring = algorithms.varOr(population, toolbox, lambda_, cxpb, mutpb)
        fresh = [individual for individual in offspring if not individual.fitness.valid]
        for individual, values in zip(fresh, toolbox.map(toolbox.evaluate, fresh), strict=True):
            individual.fitness.values = values
        best.update(offspring)
        population = tools.selBest([*population, *offspring] if generation else population, mu)
    winner = Population(problem, [best[0]], horizon=epochs, seed=seed, **training).train(epochs).ticket()
    winner.ledger = toolbox.map.ledger + winner.ledger
    return winner


def _check(**counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < (0 if name == "ngen" else 1):
            raise InputError(f"{name}={value!r} is not usable: give a whole number >= {0 if name == 'ngen' else 1}")
