"""The first population of a search: random masks, and those of scorers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deap import base

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.masks.allocation import Allocation
from evoprune.problems.problem import Problem
from evoprune.registry import one_of
from evoprune.training.ledger import Ledger

__all__ = ["SCORING", "check_first", "first_population"]

SCORING = 2
"""Dense gradients that scoring holds as much as: the dense weights, and their scores with what orders them."""


def check_first(first: Sequence[str], mu: int) -> None:
    """Raises `InputError` unless every name is "random" or a scorer, and has a place among `mu`."""
    from evoprune.methods.scorers import SCORERS

    if isinstance(first, str) or not first:
        raise InputError(f"first={first!r} is not usable: give names in a sequence, as in ('random', 'synflow')")
    for name in first:
        one_of("source of the first population", name, ("random", *SCORERS))
    if len(first) > mu:
        raise InputError(f"first={tuple(first)!r} has no place for each in a population of {mu}: raise mu=, or give form='plain'")


def first_population(
    toolbox: base.Toolbox,
    problem: Problem,
    n: int,
    first: Sequence[str],
    *,
    sparsity: float | tuple[float, float],
    allocation: Allocation,
    seed: int,
    **where: Any,
) -> tuple[list[Any], Ledger]:
    """n individuals, taken in turns from the sources `first`, and what scoring cost. where: `device` and `dtype` of scoring.

    Each draw of a scorer has a seed of its own; one whose mask does not depend on it (`magnitude`) gives one individual, and
    random masks take the other places.
    """
    from evoprune.methods.scorers import SCORERS

    ledger, population = Ledger(), toolbox.population(n=n)
    seen: set[str] = set()
    for place, individual in enumerate(population):
        name = first[place % len(first)]
        if name == "random":
            continue
        one = 1 - individual.mask.count / problem.prunable
        own = one if isinstance(sparsity, (tuple, list)) else sparsity
        mask, cost = SCORERS[name].select(problem, sparsity=own, seed=seeds.derive(seed, "first", place), **where)
        ledger += cost
        if mask.hash not in seen:
            seen.add(mask.hash)
            individual.mask, individual.lineage = mask, {"operator": name, "parents": []}
    return population, ledger
