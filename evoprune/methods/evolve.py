"""A generational search over masks: DEAP's (mu + lambda) loop, a few epochs of training are a fitness."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from deap import base, tools

from evoprune.errors import InputError
from evoprune.evolution.loop import State, generations
from evoprune.evolution.several import front
from evoprune.evolution.toolbox import make_toolbox
from evoprune.masks.allocation import Allocation
from evoprune.methods.first import check_first, first_population
from evoprune.methods.registry import method
from evoprune.problems.problem import Problem
from evoprune.training.ledger import Ledger
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket

__all__ = ["evolve"]


@method(reference="(mu + lambda) evolution strategy, Beyer 2002, on masks of fixed size")
def evolve(
    problem: Problem,
    *,
    sparsity: float | tuple[float, float] = 0.95,
    epochs: int = 10,
    fitness_epochs: int = 2,
    mu: int = 16,
    lambda_: int = 16,
    ngen: int = 8,
    cxpb: float = 0.2,
    mutpb: float = 0.8,
    criterion: str | Sequence[str] = "loss",
    objectives: Sequence[str] | None = None,
    rungs: Sequence[int] | None = None,
    eta: int = 2,
    mate: str = "cxSetUniform",
    mutate: str | None = None,
    inherit: str | None = None,
    first: Sequence[str] = ("random",),
    repetitions: int = 1,
    budget: int | None = None,
    allocation: Allocation = "erk",
    journal: str | os.PathLike[str] | None = None,
    executor: Any = None,
    seed: int = 0,
    **training: Any,
) -> Ticket:
    """Evolve masks for `ngen` generations, then train the best afresh for `epochs`.

    fitness_epochs: epochs of one evaluation. cxpb + mutpb <= 1; the rest are clones. first: where the first population comes
    from, in turns: "random", or scorers. rungs: each generation is a tournament of `fitness_epochs`, and the next population
    comes from the children alone. objectives: several, as ("loss", "survivors") with two sparsities; the best in the first of
    them is trained, the front is in the provenance. repetitions: evaluations an elite gets at most. budget: samples trained in
    the search; it ends before the generation that would exceed it. The other options are those of `make_toolbox`.
    """
    _check(mu=mu, lambda_=lambda_, ngen=ngen, repetitions=repetitions, cxpb=cxpb, mutpb=mutpb)
    check_first(first)
    toolbox = make_toolbox(
        problem, sparsity=sparsity, epochs=fitness_epochs, criterion=criterion, objectives=objectives, rungs=rungs, eta=eta,
        allocation=allocation, mate=mate, mutate=mutate, inherit=inherit, journal=journal, executor=executor, seed=seed,
        **training,
    )  # fmt: skip
    if objectives is None:
        toolbox.register("select", tools.selBest)
    population, scoring = first_population(toolbox, problem, mu, first, sparsity=sparsity, allocation=allocation, seed=seed)
    shares = dict(Counter(individual.lineage["operator"] for individual in population))
    hall = tools.HallOfFame(1) if objectives is None else tools.ParetoFront(lambda a, b: a.mask == b.mask)
    states = generations(
        population, toolbox, cxpb, mutpb, ngen, mu=mu, lambda_=lambda_, comma=rungs is not None, halloffame=hall,
        repetitions=repetitions,
    )  # fmt: skip
    state = next(states)
    while not _exceeds(toolbox, lambda_, budget) and (later := next(states, None)) is not None:
        state = later
    toolbox.map.close()
    ticket = _trained(problem, state, toolbox, epochs, seed, training, scoring)
    return ticket.with_provenance({"first": shares})


def _trained(
    problem: Problem, state: State, toolbox: base.Toolbox, epochs: int, seed: int, training: dict[str, Any], scored: Ledger
) -> Ticket:
    """The best of the search as a ticket, with the cost of the search."""
    if state.best is None:
        raise InputError(f"all {state.nevals} evaluations failed: lower lr=")
    winner = Population(problem, [state.best], horizon=epochs, seed=seed, **training).train(epochs).ticket()
    winner.ledger = scored + toolbox.map.ledger + winner.ledger
    names = toolbox.map.trainer.names
    found = {"generations": state.generation, "evaluations": state.nevals, "lineage": state.best.lineage}
    if len(toolbox.map.trainer.objectives) > 1:
        found["front"] = front(list(state.halloffame), names).to_dict("records")
    return winner.with_provenance({"search": found})


def _exceeds(toolbox: base.Toolbox, lambda_: int, budget: int | None) -> bool:
    """Whether another generation would cost more than the budget."""
    spent, evaluations = toolbox.map.ledger.samples, toolbox.map.counted
    return budget is not None and spent + spent // max(1, evaluations) * lambda_ > budget


def _check(*, cxpb: float, mutpb: float, mu: int, **counts: int) -> None:
    for name, value in {"mu": mu, **counts}.items():
        least = 0 if name == "ngen" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name}={value!r} is not usable: give a whole number >= {least}")
    if not (0 <= cxpb <= 1 and 0 <= mutpb <= 1 and cxpb + mutpb <= 1):
        raise InputError(f"cxpb={cxpb!r} and mutpb={mutpb!r} are not usable: give shares of the offspring, together at most 1")
    if mu == 1 and cxpb:
        raise InputError(f"mu=1 leaves no pair to cross with cxpb={cxpb!r}: set cxpb=0, or raise mu=")
