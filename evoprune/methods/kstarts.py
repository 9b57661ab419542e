"""K-starts: k random masks, the fittest after the first epochs survives.  [Haroon 2022, arXiv:2209.02201]"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from evoprune.criteria import CRITERIA
from evoprune.evolution.assess import initial_population
from evoprune.evolution.tournament import ETA, check_eta, check_rungs, tournament
from evoprune.masks.allocation import Allocation
from evoprune.masks.mask import Mask
from evoprune.methods.registry import Holding, method, sparse_networks, starts_dense
from evoprune.problems.problem import Problem
from evoprune.registry import one_of
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket

__all__ = ["kstarts"]

log = logging.getLogger("evoprune")

SELECTION_EPOCHS = 2


def _holds(density: float, options: Mapping[str, Any]) -> Holding:
    """The k networks; all of the one that the form "shared" trains before them."""
    drawn = sparse_networks(density, options)
    return drawn if options["form"] == "independent" else Holding(max(1.0, drawn.weights))


@method(reference="Haroon 2022, arXiv:2209.02201", holds=_holds, unset={"rungs": "one cut, after selection_epochs"})
def kstarts(
    problem: Problem,
    *,
    sparsity: float = 0.95,
    k: int = 32,
    selection_epochs: int = SELECTION_EPOCHS,
    epochs: int = 10,
    criterion: str = "grad",
    form: Literal["independent", "shared"] = "independent",
    rungs: Sequence[int] | None = None,
    eta: int = ETA,
    allocation: Allocation = "erk",
    seed: int = 0,
    **training: Any,
) -> Ticket:
    """Train k random masks for a few epochs, keep the fittest, train it on.

    criterion: any of `ep.criteria`. form: "independent" (each mask trains its own copy) or "shared" (one full network
    trains, the masks are scored on what it recorded). rungs: epochs at which the worse share leaves (all but 1/eta), in
    place of one cut after `selection_epochs`.
    """
    if rungs is not None and selection_epochs != SELECTION_EPOCHS:
        log.warning("kstarts: selection_epochs=%r does nothing beside rungs=", selection_epochs)
    rungs = check_rungs(
        (selection_epochs,) if rungs is None else rungs, epochs, criterion=CRITERIA[criterion], k=k, eta=check_eta(eta, rungs)
    )
    individuals = initial_population(problem.space, k, sparsity=sparsity, allocation=allocation, seed=seed)
    if one_of("form", form, ("independent", "shared")) == "independent":
        generation = Population(problem, individuals, horizon=epochs, seed=seed, **training)
    else:
        starts_dense("form='shared'", training, "rescale", "own_weights")
        generation = Population(problem, [Mask.full(problem.space)], horizon=epochs, seed=seed, **training)
        generation.train(rungs[0], record=CRITERIA[criterion].needs)
        generation.branch([0] * k, [individual.mask for individual in individuals])
    tournament(generation, individuals, rungs, criterion, eta=eta)
    return generation.train(epochs - rungs[-1]).ticket()
