"""Successive halving: many random masks start, the worse share leaves at each rung.  [Jamieson 2016, arXiv:1502.07943]"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from deap import tools

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.evolution.assess import assess, initial_population
from evoprune.evolution.individual import has_failed
from evoprune.evolution.tournament import ETA, check_eta, check_rungs, criteria_of, default_rungs, rungs_of, tournament
from evoprune.masks.allocation import Allocation
from evoprune.methods.registry import method
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket
from evoprune.values import whole

__all__ = ["halving"]

log = logging.getLogger("evoprune")

FINALISTS = 4


@method(reference="Jamieson 2016, arXiv:1502.07943", unset={"rungs": "2, 2·eta, 2·eta², …", "criterion": "grad, then loss"})
def halving(
    problem: Problem,
    *,
    sparsity: float = 0.95,
    k: int = 32,
    epochs: int = 10,
    rungs: Sequence[int] | None = None,
    eta: int = ETA,
    criterion: str | Sequence[str] | None = None,
    finalists: int = FINALISTS,
    judges: int = 0,
    allocation: Allocation = "erk",
    seed: int = 0,
    **training: Any,
) -> Ticket:
    """Train k random masks, let all but 1/eta leave at each rung, train the finalists to the end, keep the best of them.

    rungs: epochs; None takes 2, 2·eta, 2·eta², … criterion: one, or one a rung (the last goes on); None ranks the first
    rung by `grad`, later ones by validation loss. finalists: networks that train to the end. judges: fresh seeds on which each
    finalist is trained again, and the best mean loss wins; with 0 the validation loss at the end decides, and is then no fair
    estimate.
    """
    eta = check_eta(eta)
    rungs = default_rungs(epochs, k, eta) if rungs is None else rungs_of(rungs)
    default = ("grad", "loss")[: max(1, len(rungs))]
    criteria = criteria_of(default if criterion is None else criterion, len(rungs))
    rungs = check_rungs(rungs, epochs, criterion=criteria[0], k=k, eta=eta)
    for name, value, least in (("finalists", finalists, 1), ("judges", judges, 0)):
        whole(name, value, least)
    if finalists > k and finalists != FINALISTS:
        log.warning("halving: finalists=%d are more than the k=%d networks that start", finalists, k)
    individuals = initial_population(problem.space, k, sparsity=sparsity, allocation=allocation, seed=seed)
    generation = Population(problem, individuals, horizon=epochs, seed=seed, **training)
    if judges and generation.training.own_weights:
        raise InputError("judges train finalists again from common weights: set judges=0, or leave own_weights out")
    tournament(generation, individuals, rungs, [one.name for one in criteria], eta=eta, keep=finalists)
    generation.train(epochs - rungs[-1])
    final = [individuals[number] for number in generation.trace.individuals]
    assess(final, generation.trace, "loss")
    judged = _judge(problem, final, generation, epochs, judges, seed, training)
    [fittest] = tools.selBest(final, 1)
    ticket = generation.ticket(final.index(fittest))
    return ticket.with_provenance({"rungs": list(rungs), "finalists": judged})


def _judge(
    problem: Problem, final: list[Any], generation: Population, epochs: int, judges: int, seed: int, training: dict[str, Any]
) -> list[dict[str, Any]]:
    """Give each finalist that has not failed the mean loss on fresh seeds as its fitness; one row a finalist."""
    rows: list[dict[str, Any]] = [{"mask": one.mask.hash, "selecting_loss": one.fitness.values[0]} for one in final]
    losses = []
    for judge in range(judges):
        fresh = Population(problem, final, horizon=epochs, seed=seeds.derive(seed, "judge", judge), **training).train(epochs)
        generation.ledger += fresh.ledger
        losses.append(np.where(fresh.trace.failed, np.inf, fresh.trace.last("val_loss")))
    for place, (one, row) in enumerate(zip(final, rows, strict=True)):
        if losses:
            row["fresh_losses"] = [float(loss[place]) for loss in losses]
            if not has_failed(one):  # its network is the one that becomes the ticket
                one.fitness.values = (float(np.mean(row["fresh_losses"])),)
    return rows
